"""MusicGen on Replicate, over its HTTP API."""
