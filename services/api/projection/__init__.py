"""Projects the events of every topic into PostgreSQL."""
