"""Fakes: implementations of ports for tests."""
