"""Contract: one suite of behaviour per port, run on every adapter."""
