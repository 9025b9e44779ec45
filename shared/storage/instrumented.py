"""Told: an object store whose calls can be followed, in the log (debug) and as spans.

Keys are told, bytes and addresses never: a presigned address is a right to read.

I/O: that of the store inside.
"""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

from shared.storage import DEFAULT_CONTENT_TYPE, ObjectStat, ObjectStore
from shared.telemetry import trace
from shared.telemetry.log import Logger

T = TypeVar("T")


class InstrumentedStore:
    """An `ObjectStore` that says what is asked of `inside`."""

    def __init__(self, inside: ObjectStore, *, log: Logger) -> None:
        self._inside = inside
        self._log = log

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data` whole."""
        put = self._inside.put(key, data, content_type=content_type)
        await self._told("put", key, put, size_bytes=len(data))

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store a file."""
        await self._told("put", key, self._inside.put_file(key, path, content_type=content_type))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; False when it exists already."""
        create = self._inside.put_if_absent(key, data)
        return await self._told("create", key, create, size_bytes=len(data))

    async def get(self, key: str) -> bytes:
        """The whole object."""
        return await self._told("get", key, self._inside.get(key))

    async def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`."""
        await self._told("get", key, self._inside.get_file(key, path))

    def stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes `[start, end)` in chunks."""
        self._say("stream", key)
        return self._inside.stream(key, start=start, end=end)

    async def stat(self, key: str) -> ObjectStat | None:
        """What is known of `key`."""
        return await self._told("stat", key, self._inside.stat(key))

    def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """The objects whose keys begin with `prefix`."""
        self._say("list", prefix)
        return self._inside.list_objects(prefix)

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """An address that reads `key` for a while; nobody is told which."""
        return self._inside.presigned_url(key, ttl_s=ttl_s)

    async def delete(self, key: str) -> None:
        """Remove `key`."""
        await self._told("delete", key, self._inside.delete(key))

    async def prepare(self) -> None:
        """Make what holds the objects."""
        await self._inside.prepare()

    async def check(self) -> None:
        """Return if the store can be written to."""
        await self._inside.check()

    async def close(self) -> None:
        """Let go of connections and threads."""
        await self._inside.close()

    async def _told(
        self, call: str, key: str, doing: Awaitable[T], *, size_bytes: int | None = None
    ) -> T:
        with trace.span(
            f"store {call}",
            {"segue.object_key": key, "segue.size_bytes": size_bytes},
            kind="client",
        ):
            done = await doing
        self._say(call, key, size_bytes=size_bytes)
        return done

    def _say(self, call: str, key: str, **fields: object) -> None:
        self._log.debug("store is asked", action="store.called", call=call, key=key, **fields)
