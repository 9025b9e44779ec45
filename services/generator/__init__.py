"""generator: scenes to segments, strictly in order within a job."""
