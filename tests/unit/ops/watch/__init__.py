"""Unit tests of ops/watch."""
