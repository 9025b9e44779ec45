"""Migrations: numbered SQL files, applied once each, in order (`repository/schema.py`)."""
