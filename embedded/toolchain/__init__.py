"""Fetches and caches the programs of native servers: wheels, Java, Go."""
