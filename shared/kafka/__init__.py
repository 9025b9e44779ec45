"""Kafka: records in and out. aiokafka's adapters; `services/generator/app.py` alone uses Faust."""
