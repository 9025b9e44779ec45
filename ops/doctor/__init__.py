"""Commands about this machine and the source checkout."""
