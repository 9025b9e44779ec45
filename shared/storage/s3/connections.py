"""HTTP connections that reject responses with a truncated header.

The standard library takes the end of a connection for the end of the header: a truncated header
looks complete, with missing lines or half a value in the last one (an empty Content-Length makes
any object look empty). Such a response is treated as a broken connection and retried.

I/O: HTTP.
"""

from http.client import HTTPResponse
from io import BufferedReader
from typing import Any, cast

from typing_extensions import override
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection


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


def pool_manager(*, connections: int, timeout: Timeout, retries: Retry) -> PoolManager:
    """Return a pool that keeps `connections` connections per host."""
    pools = PoolManager(maxsize=connections, timeout=timeout, retries=retries)
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pools
