"""Commands that prepare Kafka: topics, ACLs and consumer groups."""
