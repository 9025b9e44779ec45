"""Unit tests of the embedded stack."""
