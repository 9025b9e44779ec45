"""Heads: connections that notice when the head of an answer breaks off.

The standard library takes the end of a connection for the end of a head: what came before it
looks whole, with fewer lines, or with half a value in the last (an empty length makes an empty
object of any). Such an answer is a connection that broke, and is asked for again like one.

I/O: HTTP.
"""

from http.client import HTTPResponse
from io import BufferedReader
from typing import Any, cast

from typing_extensions import override
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Lines:
    """A reader of lines that remembers whether there were no more."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.ended = False

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(size)
        self.ended = self.ended or not line
        return line

    def close(self) -> None:
        self._file.close()


class _Answer(HTTPResponse):
    """An answer whose head ends with its empty line, or not at all."""

    @override
    def begin(self) -> None:
        file = self.fp
        lines = _Lines(file)
        self.fp = stand_in = cast("BufferedReader", lines)
        try:
            super().begin()
        finally:
            if self.fp is stand_in:  # else it was let go of
                self.fp = file
        if lines.ended:
            raise ConnectionResetError("the head of an answer broke off")


class _Connection(HTTPConnection):
    response_class: type[HTTPResponse] = _Answer


class _TlsConnection(HTTPSConnection):
    response_class: type[HTTPResponse] = _Answer


class _Pool(HTTPConnectionPool):
    ConnectionCls: type[Any] = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls: type[Any] = _TlsConnection


def pool_manager(*, connections: int, timeout: Timeout, retries: Retry) -> PoolManager:
    """Connections to any host; `connections` of them are kept for each."""
    pools = PoolManager(maxsize=connections, timeout=timeout, retries=retries)
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pools
