"""Tests of the merger."""
