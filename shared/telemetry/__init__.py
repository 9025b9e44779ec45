"""Telemetry: what a service says while it works."""
