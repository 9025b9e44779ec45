"""Unit tests of ops/score."""
