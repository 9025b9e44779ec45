"""Fetches and decodes records; what cannot be decoded does not stop its partition."""
