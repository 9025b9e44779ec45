"""Tests of the Dockerfile and the compose file with a real Docker engine."""
