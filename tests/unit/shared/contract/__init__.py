"""Unit tests of shared/contract."""
