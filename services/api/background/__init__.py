"""Background tasks: outbox relay, job notifications, gauges."""
