"""Starts, cancels and resumes runs inside a database transaction of the caller."""
