"""Fakes: real code with the behaviour of a port, for tests alone."""
