"""Projects every topic into PostgreSQL."""
