"""Unit tests of services/generator/scene."""
