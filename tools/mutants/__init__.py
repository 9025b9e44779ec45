"""Measures which code changes the unit tests detect (`make mutants`). Build time only."""
