"""The `segue watch` command."""
