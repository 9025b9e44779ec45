"""The generator's rules."""
