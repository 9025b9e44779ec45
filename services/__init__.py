"""The four services. They talk through Kafka and never import each other."""
