"""Logs the calls of an object store (at debug) and traces them as spans.

Keys are logged; bytes and presigned URLs, which grant read access, are not.

I/O: that of the wrapped store.
"""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

from shared.storage import DEFAULT_CONTENT_TYPE, ObjectStat, ObjectStore
from shared.telemetry import trace
from shared.telemetry.log import Logger

T = TypeVar("T")


class InstrumentedStore:
    """An `ObjectStore` that logs and traces the calls of `inside`."""

    def __init__(self, inside: ObjectStore, *, log: Logger) -> None:
        self._inside = inside
        self._log = log

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data`."""
        put = self._inside.put(key, data, content_type=content_type)
        await self._traced("put", key, put, size_bytes=len(data))

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store a file."""
        await self._traced("put", key, self._inside.put_file(key, path, content_type=content_type))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; return False if it exists."""
        create = self._inside.put_if_absent(key, data)
        return await self._traced("create", key, create, size_bytes=len(data))

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return await self._traced("get", key, self._inside.get(key))

    async def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path`."""
        await self._traced("get", key, self._inside.get_file(key, path))

    def stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, end)` in chunks."""
        self._log_call("stream", key)
        return self._inside.stream(key, start=start, end=end)

    async def stat(self, key: str) -> ObjectStat | None:
        """Return the metadata of `key`."""
        return await self._traced("stat", key, self._inside.stat(key))

    def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`."""
        self._log_call("list", prefix)
        return self._inside.list_objects(prefix)

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """Return a URL that reads `key` for a while; it is not logged."""
        return self._inside.presigned_url(key, ttl_s=ttl_s)

    async def delete(self, key: str) -> None:
        """Delete `key`."""
        await self._traced("delete", key, self._inside.delete(key))

    async def prepare(self) -> None:
        """Create the bucket or folder."""
        await self._inside.prepare()

    async def check(self) -> None:
        """Return if the store is writable."""
        await self._inside.check()

    async def close(self) -> None:
        """Close connections and threads."""
        await self._inside.close()

    async def _traced(
        self, call: str, key: str, operation: Awaitable[T], *, size_bytes: int | None = None
    ) -> T:
        with trace.span(
            f"store {call}",
            {"segue.object_key": key, "segue.size_bytes": size_bytes},
            kind="client",
        ):
            result = await operation
        self._log_call(call, key, size_bytes=size_bytes)
        return result

    def _log_call(self, call: str, key: str, **fields: object) -> None:
        self._log.debug("store called", action="store.called", call=call, key=key, **fields)
