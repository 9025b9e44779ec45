"""HTTP: the server in our event loop, health and metrics endpoints, guarded downloads."""
