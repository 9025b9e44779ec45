"""Predictions: state, lifecycle, files and webhooks."""
