"""Unit tests of shared/storage."""
