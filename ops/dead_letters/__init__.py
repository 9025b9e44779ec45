"""Commands that list, requeue and discard dead letters."""
