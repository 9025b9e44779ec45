"""Reads and replays Kafka topics without a consumer group."""
