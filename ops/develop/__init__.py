"""Commands for a source checkout."""
