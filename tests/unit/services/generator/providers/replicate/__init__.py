"""Unit tests of services/generator/providers/replicate."""
