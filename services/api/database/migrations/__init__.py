"""Numbered SQL files, each applied once, in order (`database/migrate.py`). Never edit one."""
