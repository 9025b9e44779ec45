"""Unit tests of services/api/http."""
