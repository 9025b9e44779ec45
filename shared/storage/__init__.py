"""Object store: where media bytes live; events carry keys, never bytes.

Adapters: `filesystem` (a folder), `s3` (MinIO and its kin), `memory` (tests). All pass
`tests/contract/test_object_store.py`. Keys come from `keys`, never from user text.

Units: sizes and ranges are bytes; a range is `[start, end)`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 256 * 1024  # what one read hands on; a large track never lies in memory whole
DEFAULT_CONTENT_TYPE = "application/octet-stream"
LINK_S_MAX = 7 * 86_400  # the longest life that S3 signs


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """What is known of an object without reading it."""

    key: str
    size_bytes: int
    etag: str  #: changes when the bytes change
    content_type: str
    modified_at: datetime


class StandInWarning(UserWarning):
    """A stand-in was built: it does the work, but not where users would have it done."""


class ObjectStore(Protocol):
    """Puts, gets and lists objects. Safe to call from many tasks at once.

    Every method has a deadline of its own and raises `StoreUnavailableError` (retryable) when
    the store did not answer; nothing else of the vendor's comes through. What is read whole is
    known to be what was put: its SHA-256 lies beside it.
    """

    async def put(self, key: str, data: bytes, *, content_type: str = ...) -> None:
        """Store `data` whole under `key`, replacing what was there; never visible half-written."""
        ...

    async def put_file(self, key: str, path: Path, *, content_type: str = ...) -> None:
        """Store a file, streamed; never visible half-written."""
        ...

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` with `data`; False when it exists already, whoever made it.

        Atomic over all clients of the store. After a lost answer the same `data` (callers put
        a nonce in it) counts as one's own: True.
        """
        ...

    async def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, streamed.

        Raises:
            NotFoundError: there is none.
        """
        ...

    def stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes `[start, end)` in chunks; `end` None: to the end.

        Raises:
            NotFoundError: at the first chunk.
        """
        ...

    async def stat(self, key: str) -> ObjectStat | None:
        """What is known of `key`; None when there is no such object."""
        ...

    def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """The objects whose keys begin with `prefix`, in key order."""
        ...

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """An address that reads `key` for `ttl_s` seconds without an account.

        It is given whether or not there is such an object; None: this store has no server.

        Raises:
            ValueError: `ttl_s` is no life that can be signed.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove `key`; nothing happens when it is not there."""
        ...

    async def prepare(self) -> None:
        """Make what holds the objects, if it is not there; once, before anything else.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
        """
        ...

    async def check(self) -> None:
        """Return if the store can be written to.

        Raises:
            StoreUnavailableError: it cannot, and why.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


def check_ttl(ttl_s: int) -> int:
    """`ttl_s` if an address can live so long.

    Raises:
        ValueError: it cannot.
    """
    if not 1 <= ttl_s <= LINK_S_MAX:
        raise ValueError(f"a link lives for 1 to {LINK_S_MAX} s, not {ttl_s}")
    return ttl_s
