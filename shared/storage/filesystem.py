"""Object store in a folder, for one machine.

Objects are written to a temporary file and renamed, so no reader sees a partial one. The SHA-256
is an extended attribute of the file, if the file system has them; objects read as a whole are
verified against it. The content type follows from the key's extension. I/O runs in threads without
a deadline of its own.
"""

import asyncio
import hashlib
import mimetypes
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from shared.errors import NotFoundError, StoreUnavailableError
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat, check_ttl
from shared.storage.keys import check_key, check_prefix

T = TypeVar("T")
_ATTRIBUTE = "user.segue.sha256"
_PROBE_BYTES = 4096  # a block
_STALE_S = 86_400.0  # no write takes a day
_TEMPORARY = ".tmp"  # no key can start with it, so these files are not objects


class FolderStore:
    """An `ObjectStore` in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        (self.root / _TEMPORARY).mkdir(parents=True, exist_ok=True)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,  # noqa: ARG002 - follows from the key
    ) -> None:
        """Store `data`, replacing the object."""
        await self._in_thread(lambda: self._place(key, [data]))

    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,  # noqa: ARG002 - as in put
    ) -> None:
        """Store a file, copied chunk by chunk."""
        await asyncio.to_thread(path.stat)  # a missing file is the caller's error
        await self._in_thread(lambda: self._place(key, _chunks(path, 0, None)))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; return False if it exists. A hard link makes it atomic."""
        return await self._in_thread(lambda: self._create(key, data))

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return await self._in_thread(lambda: b"".join(_checked(self._path(key))), key=key)

    async def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path`, whole or not at all."""
        part = path.with_name(f"{path.name}.part")

        def copy() -> None:
            source = self._path(key)
            try:
                with part.open("wb") as target:
                    target.writelines(_checked(source))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

        await self._in_thread(copy, key=key)

    async def stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, end)` in chunks."""
        path = self._path(key)
        whole = start == 0 and end is None
        chunks = _checked(path) if whole else _chunks(path, start, end)
        while chunk := await self._in_thread(lambda: next(chunks, b""), key=key):
            yield chunk

    async def stat(self, key: str) -> ObjectStat | None:
        """Return the metadata of `key`; None if it does not exist."""
        try:
            return await self._in_thread(lambda: self._stat(self._path(key)), key=key)
        except NotFoundError:
            return None

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, in key order."""
        check_prefix(prefix)
        for path in await self._in_thread(lambda: self._below(prefix)):
            try:
                yield await self._in_thread(lambda p=path: self._stat(p), key=str(path))  # type: ignore[misc]
            except NotFoundError:
                continue  # deleted since the listing

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """Return None: a folder has no server."""
        check_key(key)
        check_ttl(ttl_s)
        return None

    async def delete(self, key: str) -> None:
        """Delete `key`; no effect if it does not exist."""
        with suppress(NotFoundError):
            await self._in_thread(lambda: self._path(key).unlink(), key=key)

    async def prepare(self) -> None:
        """Delete temporary files of killed writers; the constructor creates the folder."""

        def remove() -> None:
            for path in (self.root / _TEMPORARY).iterdir():
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _STALE_S:  # noqa: TID251 - compared with file times
                        path.unlink()

        await self._in_thread(remove)

    async def check(self) -> None:
        """Return if the folder is writable."""

        def probe() -> None:
            with tempfile.TemporaryFile(dir=self.root / _TEMPORARY) as file:
                file.write(bytes(_PROBE_BYTES))  # an empty file fits on a full disk
                file.flush()
                os.fsync(file.fileno())

        await self._in_thread(probe)

    async def close(self) -> None:
        """Nothing to close."""

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _stat(self, path: Path) -> ObjectStat:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            raise IsADirectoryError(path)  # a prefix of keys is not an object
        identity = f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
        return ObjectStat(
            key=path.relative_to(self.root).as_posix(),
            size_bytes=stat.st_size,
            etag=hashlib.sha256(identity.encode()).hexdigest()[:32],
            content_type=mimetypes.guess_type(path.name)[0] or DEFAULT_CONTENT_TYPE,
            modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        )

    def _below(self, prefix: str) -> list[Path]:
        folder = self.root / prefix.rpartition("/")[0]
        files = (p for p in folder.rglob("*") if p.is_file())
        keyed = ((p.relative_to(self.root).as_posix(), p) for p in files)
        return [p for key, p in sorted(keyed) if key.startswith(prefix) and key[0] != "."]

    def _place(self, key: str, chunks: Iterable[bytes]) -> None:
        with self._written(key, chunks) as (temporary, target):
            temporary.replace(target)

    def _create(self, key: str, data: bytes) -> bool:
        with self._written(key, [data]) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError:
                return target.read_bytes() == data
            return True

    @contextmanager
    def _written(self, key: str, chunks: Iterable[bytes]) -> Iterator[tuple[Path, Path]]:
        """Write `chunks` to a temporary file of the same disk; yield it and its target."""
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.root / _TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                digest = hashlib.sha256()
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                _write_digest(file.fileno(), digest.hexdigest())
                file.flush()
                os.fsync(file.fileno())
            yield Path(name), target
        finally:
            Path(name).unlink(missing_ok=True)

    async def _in_thread(self, call: Callable[[], T], *, key: str = "") -> T:
        try:
            return await asyncio.to_thread(call)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFoundError(key) from error
        except OSError as error:
            raise StoreUnavailableError(f"store folder: {error.strerror}") from error


def _checked(path: Path) -> Iterator[bytes]:
    """Yield the whole file in chunks, the last one only if its SHA-256 matches.

    Raises:
        StoreUnavailableError: it does not match.
    """
    digest, last_chunk = hashlib.sha256(), b""
    with path.open("rb") as file:  # the same file even if the object is replaced meanwhile
        expected = _read_digest(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if last_chunk:
                yield last_chunk
            last_chunk = chunk
    if expected not in {None, digest.hexdigest()}:
        raise StoreUnavailableError("store folder: checksum mismatch")
    if last_chunk:
        yield last_chunk


def _write_digest(file: int, digest: str) -> None:
    if hasattr(os, "setxattr"):
        with suppress(OSError):  # the file system has no extended attributes
            os.setxattr(file, _ATTRIBUTE, digest.encode())


def _read_digest(file: int) -> str | None:
    if hasattr(os, "getxattr"):
        with suppress(OSError):
            return os.getxattr(file, _ATTRIBUTE).decode()
    return None


def _chunks(path: Path, start: int, end: int | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = None if end is None else max(0, end - start)
        while chunk := file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)):
            left = None if left is None else left - len(chunk)
            yield chunk
