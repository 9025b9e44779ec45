"""Build-time tools; not part of any image."""
