"""The HTTP side of the Replicate emulator: server, middleware and routes."""
