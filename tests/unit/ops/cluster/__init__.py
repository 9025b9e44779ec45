"""Unit tests of ops/cluster."""
