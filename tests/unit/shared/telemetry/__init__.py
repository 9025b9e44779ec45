"""Tests of what a service says."""
