"""Unit tests: pure, no server, seconds in all."""
