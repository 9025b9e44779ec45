"""Unit tests of shared/processing."""
