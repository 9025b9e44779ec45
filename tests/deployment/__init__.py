"""Deployment: Dockerfile and compose file, really built and really started."""
