"""SQL used by operator commands only."""
