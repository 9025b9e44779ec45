"""The published contract: events, topics, ids and run parameters."""
