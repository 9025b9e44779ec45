"""Telemetry: what a service says while it works, and which version says it."""

from functools import cache
from importlib import metadata


@cache
def service_version() -> str:
    """The version of this project; "unknown" where its files lie without being installed."""
    try:
        return metadata.version("segue")
    except metadata.PackageNotFoundError:
        return "unknown"
