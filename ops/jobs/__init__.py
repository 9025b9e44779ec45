"""Commands that list, follow and change jobs."""
