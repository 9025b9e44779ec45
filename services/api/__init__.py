"""api: the HTTP edge, the outbox, and the view of every job in PostgreSQL."""
