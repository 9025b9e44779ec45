"""Commands that score a film."""
