"""Unit tests of shared/media."""
