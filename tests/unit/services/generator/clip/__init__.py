"""Unit tests of services/generator/clip."""
