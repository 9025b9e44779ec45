"""The api service: HTTP, the outbox, and the view of every job in PostgreSQL."""
