"""Middleware: admission control and request tracing."""
