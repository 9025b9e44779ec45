"""Predictions of the emulator: state, lifecycle, files and webhooks."""
