"""Unit tests of services/api/domain."""
