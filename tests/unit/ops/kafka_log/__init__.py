"""Tests of `ops.kafka_log`."""
