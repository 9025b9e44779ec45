"""The generator service: composes a segment for each scene, in order within a job."""
