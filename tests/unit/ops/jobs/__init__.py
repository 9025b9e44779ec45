"""Unit tests of ops/jobs."""
