"""Unit tests of services/generator/faust_app."""
