"""Logs, metrics and traces of a service."""

from functools import cache
from importlib import metadata


@cache
def service_version() -> str:
    """Return the version of this project; "unknown" if it is not installed."""
    try:
        return metadata.version("segue")
    except metadata.PackageNotFoundError:
        return "unknown"
