"""Commands that prepare Kafka and the store: topics, ACLs, the bucket."""
