"""Memory: a dict as object store, for tests.

A stand-in, and says so when built: everything is gone with the process.
"""

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
        warnings.warn("the memory store forgets everything", StandInWarning, stacklevel=2)
        self._clock = clock or SystemClock()
        self._objects: dict[str, tuple[ObjectStat, bytes]] = {}

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data` whole, replacing what was there."""
        check_key(key)
        await asyncio.sleep(0)  # others run meanwhile, as with every other store
        self._place(key, data, content_type)

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store what is in a file."""
        check_key(key)
        data = await asyncio.to_thread(path.read_bytes)
        await self.put(key, data, content_type=content_type)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; False when it exists already with other bytes."""
        check_key(key)
        await asyncio.sleep(0)  # as in put
        if key in self._objects:
            return self._objects[key][1] == data
        self._place(key, data, DEFAULT_CONTENT_TYPE)
        return True

    async def get(self, key: str) -> bytes:
        """The whole object."""
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
        """The bytes `[start, end)` in chunks."""
        data = (await self.get(key))[start:end]
        for place in range(0, len(data), CHUNK_BYTES):
            yield data[place : place + CHUNK_BYTES]

    async def stat(self, key: str) -> ObjectStat | None:
        """What is known of `key`; None when there is no such object."""
        found = self._objects.get(check_key(key))
        return None if found is None else found[0]

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """The objects whose keys begin with `prefix`, in key order."""
        check_prefix(prefix)
        for key in sorted(self._objects):
            if key.startswith(prefix) and key in self._objects:
                yield self._objects[key][0]

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """None: nobody else can read this memory."""
        check_key(key)
        check_ttl(ttl_s)
        return None

    async def delete(self, key: str) -> None:
        """Remove `key`; nothing happens when it is not there."""
        self._objects.pop(check_key(key), None)

    async def prepare(self) -> None:
        """It was made with the object."""

    async def check(self) -> None:
        """Memory can always be written to."""

    async def close(self) -> None:
        """Nothing is held open."""

    def _place(self, key: str, data: bytes, content_type: str) -> None:
        stat = ObjectStat(
            key=key,
            size_bytes=len(data),
            etag=hashlib.sha256(data).hexdigest(),
            content_type=mimetypes.guess_type(key)[0] or content_type,
            modified_at=self._clock.now(),
        )
        self._objects[key] = (stat, bytes(data))
