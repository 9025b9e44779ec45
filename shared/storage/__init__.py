"""Object store port: stores media bytes; events carry keys, never bytes.

Adapters: `filesystem` (a folder), `s3` (MinIO and compatible servers), `tests/fakes/memory_store`.
All pass `tests/contract/test_object_store.py`. Keys come from `keys`, never from user input.

Units: sizes and ranges are bytes; a range is `[start, end)`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 256 * 1024  # of one read; a large track is never in memory as a whole
DEFAULT_CONTENT_TYPE = "application/octet-stream"
LINK_S_MAX = 7 * 86_400  # the longest lifetime that S3 signs


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """Metadata of an object."""

    key: str
    size_bytes: int
    etag: str  #: changes when the bytes change
    content_type: str
    modified_at: datetime


class StandInWarning(UserWarning):
    """A stand-in is in use: it works, but is not what production uses."""


class ObjectStore(Protocol):
    """Puts, gets and lists objects; safe to call from concurrent tasks.

    Every method has its own deadline and raises `StoreUnavailableError` (retryable) if the store
    does not answer; errors of the client library are never raised. Objects read as a whole are
    verified against their stored SHA-256.
    """

    async def put(self, key: str, data: bytes, *, content_type: str = ...) -> None:
        """Store `data` under `key`, replacing the object; never visible half-written."""
        ...

    async def put_file(self, key: str, path: Path, *, content_type: str = ...) -> None:
        """Store a file, streamed; never visible half-written."""
        ...

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` with `data`; return False if it exists.

        Atomic over all clients of the store. A retry after a lost response with the same `data`
        (callers put a nonce in it) returns True.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Return the whole object.

        Raises:
            NotFoundError: the object does not exist.
        """
        ...

    async def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path`, streamed.

        Raises:
            NotFoundError: the object does not exist.
        """
        ...

    def stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, end)` in chunks; `end` None: to the end.

        Raises:
            NotFoundError: at the first chunk.
        """
        ...

    async def stat(self, key: str) -> ObjectStat | None:
        """Return the metadata of `key`; None if it does not exist."""
        ...

    def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, in key order."""
        ...

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """Return a URL that reads `key` for `ttl_s` seconds without an account.

        The object need not exist. None: the store has no server.

        Raises:
            ValueError: `ttl_s` is out of range.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete `key`; no effect if it does not exist."""
        ...

    async def prepare(self) -> None:
        """Create the bucket or folder if it is missing; call it before anything else.

        Raises:
            StoreUnavailableError: the store did not answer, or denied it.
        """
        ...

    async def check(self) -> None:
        """Return if the store is writable.

        Raises:
            StoreUnavailableError: it is not, and why.
        """
        ...

    async def close(self) -> None:
        """Close connections and threads."""
        ...


def check_ttl(ttl_s: int) -> int:
    """Return `ttl_s` if a URL can be signed for it.

    Raises:
        ValueError: it is out of range.
    """
    if not 1 <= ttl_s <= LINK_S_MAX:
        raise ValueError(f"a link is valid for 1 to {LINK_S_MAX} s, not {ttl_s}")
    return ttl_s
