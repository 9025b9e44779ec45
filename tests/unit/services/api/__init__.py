"""Unit tests of the api: pure rules, no server."""
