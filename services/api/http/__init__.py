"""The HTTP API: application, schemas, routes and middleware."""
