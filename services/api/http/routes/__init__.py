"""Routes: one module per group of paths; `web.py` puts them together."""
