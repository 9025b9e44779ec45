"""Unit tests of ops/dead_letters."""
