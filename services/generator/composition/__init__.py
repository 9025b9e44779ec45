"""Paid composition: claims, attempts, delays and cancellation."""
