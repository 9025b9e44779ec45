"""Inspection and quality of a received clip."""
