"""HTTP connections that reject responses with a truncated header.

The standard library takes the end of a connection for the end of the header: a truncated header
looks complete, with missing lines or half a value in the last one (an empty Content-Length makes
any object look empty). Such a response is treated as a broken connection and retried.

I/O: HTTP.
"""

import ssl
from http.client import HTTPResponse
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from typing_extensions import override
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

from shared.errors import SettingsError


class _Lines:
    """A line reader that remembers the end of the stream."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.ended = False

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(size)
        self.ended = self.ended or not line
        return line

    def close(self) -> None:
        self._file.close()


class _Response(HTTPResponse):
    """A response whose header must end with an empty line."""

    @override
    def begin(self) -> None:
        file = self.fp
        lines = _Lines(file)
        self.fp = replaced = cast("BufferedReader", lines)
        try:
            super().begin()
        finally:
            if self.fp is replaced:  # else it was closed
                self.fp = file
        if lines.ended:
            raise ConnectionResetError("truncated response header")


class _Connection(HTTPConnection):
    response_class: type[HTTPResponse] = _Response


class _TlsConnection(HTTPSConnection):
    response_class: type[HTTPResponse] = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls: type[Any] = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls: type[Any] = _TlsConnection


def pool_manager(
    *, connections: int, timeout: Timeout, retries: Retry, ca_file: Path | None = None
) -> PoolManager:
    """Return a pool that keeps `connections` connections per host.

    Servers need a certificate of the system's authorities or of those in `ca_file`.

    Raises:
        SettingsError: the file cannot be used.
    """
    pools = PoolManager(
        maxsize=connections, timeout=timeout, retries=retries, ssl_context=_tls_context(ca_file)
    )
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pools


def _tls_context(ca_file: Path | None) -> ssl.SSLContext | None:
    """Return a context that trusts `ca_file` too; None: the default one."""
    if ca_file is None:
        return None
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            "MINIO_CA_FILE", f"{ca_file} cannot be used: {reason}; it must be a PEM file"
        ) from error
    return context
