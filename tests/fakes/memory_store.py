"""An object store in memory, for tests; it warns that it loses everything with the process."""

import asyncio
import hashlib
import mimetypes
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

from shared.clock import Clock, SystemClock
from shared.errors import NotFoundError
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat, StandInWarning, check_ttl
from shared.storage.keys import check_key, check_prefix


class MemoryStore:
    """An `ObjectStore` of one process, for one loop."""

    def __init__(self, clock: Clock | None = None) -> None:
        warnings.warn("the memory store loses everything", StandInWarning, stacklevel=2)
        self._clock = clock or SystemClock()
        self._objects: dict[str, tuple[ObjectStat, bytes]] = {}

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data`, replacing the object."""
        check_key(key)
        await asyncio.sleep(0)  # other tasks run meanwhile, as with every store
        self._store(key, data, content_type)

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store the contents of a file."""
        check_key(key)
        data = await asyncio.to_thread(path.read_bytes)
        await self.put(key, data, content_type=content_type)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; return False if it exists with other bytes."""
        check_key(key)
        await asyncio.sleep(0)  # as in put
        if key in self._objects:
            return self._objects[key][1] == data
        self._store(key, data, DEFAULT_CONTENT_TYPE)
        return True

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        check_key(key)
        await asyncio.sleep(0)  # as in put
        try:
            return self._objects[key][1]
        except KeyError as error:
            raise NotFoundError(key) from error

    async def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`."""
        data = await self.get(key)
        await asyncio.to_thread(path.write_bytes, data)

    async def stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, end)` in chunks."""
        data = (await self.get(key))[start:end]
        for offset in range(0, len(data), CHUNK_BYTES):
            yield data[offset : offset + CHUNK_BYTES]

    async def stat(self, key: str) -> ObjectStat | None:
        """Return the metadata of `key`; None if it does not exist."""
        entry = self._objects.get(check_key(key))
        return None if entry is None else entry[0]

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, in key order."""
        check_prefix(prefix)
        for key in sorted(self._objects):
            if key.startswith(prefix) and key in self._objects:
                yield self._objects[key][0]

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """Return None: no other process can read this memory."""
        check_key(key)
        check_ttl(ttl_s)
        return None

    async def delete(self, key: str) -> None:
        """Delete `key`; no effect if it does not exist."""
        self._objects.pop(check_key(key), None)

    async def prepare(self) -> None:
        """Nothing to create."""

    async def check(self) -> None:
        """Return: memory is always writable."""

    async def close(self) -> None:
        """Nothing to close."""

    def _store(self, key: str, data: bytes, content_type: str) -> None:
        stat = ObjectStat(
            key=key,
            size_bytes=len(data),
            etag=hashlib.sha256(data).hexdigest(),
            content_type=mimetypes.guess_type(key)[0] or content_type,
            modified_at=self._clock.now(),
        )
        self._objects[key] = (stat, bytes(data))
