"""Detects the cuts and the scenes of a film, and describes them from measurements."""
