"""Unit tests of services/generator/composition."""
