"""Unit tests of shared/security."""
