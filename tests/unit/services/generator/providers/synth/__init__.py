"""Unit tests of services/generator/providers/synth."""
