"""Paid composition: claims, attempts, delay notices and cancellation."""
