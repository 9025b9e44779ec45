"""Signed links and webhook signatures."""
