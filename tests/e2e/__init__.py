"""Whole jobs through the running services."""
