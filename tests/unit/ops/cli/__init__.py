"""Unit tests of ops/cli."""
