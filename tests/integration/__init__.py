"""Integration: against real servers, one kind of server a file."""
