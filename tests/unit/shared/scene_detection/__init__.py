"""Unit tests of shared/scene_detection."""
