"""Recorded answers of a Replicate: every form of an output, every shape of a clip."""
