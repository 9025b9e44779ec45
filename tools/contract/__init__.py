"""Generates the published contract: schemas, AsyncAPI, docs pages and the dashboard."""
