"""Unit tests of ops/store."""
