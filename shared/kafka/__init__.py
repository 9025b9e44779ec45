"""Kafka adapters: consuming, publishing, dead letters, tracing and topic administration."""
