"""Start, cancel and resume runs inside a database transaction."""
