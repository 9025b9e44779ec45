"""S3: a bucket of MinIO, or of its kin, as object store.

The vendor's client is synchronous and would hang for half an hour by itself, so it runs in
threads of its own with short timeouts, and every call has a deadline over that. Every object
carries its SHA-256; a download that does not match is read once more and then refused, so wrong
bytes are never handed on.

Of a range nothing but its length is known. What the vendor's client cannot say is in `presigned`.

Units: sizes are bytes, times seconds. I/O: HTTP.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import httpx
import urllib3
from minio import Minio, S3Error
from minio.error import MinioException
from urllib3.response import BaseHTTPResponse

from shared.errors import NotFoundError, SettingsError, StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat, check_ttl
from shared.storage.keys import check_key, check_prefix
from shared.storage.s3.connections import pool_manager
from shared.storage.s3.presigned import CALL_S, RATE_BYTES_S, Presigned, describe
from shared.storage.s3.responses import (
    Sink,
    check_digest,
    drain,
    release,
    stat_of,
)

T = TypeVar("T")
_CONNECT_S, READ_S, _RETRIES = 2.0, 10.0, 2  # of one try; the vendor's own are 300 s and 5
# CALL_S has room for (2 + 10) * 3 tries with their backoff, and a wait for a thread
_PART_BYTES = 8 * 1024 * 1024  # a larger file goes up in parts; one part a thread lies in memory
_PAGE_OBJECTS = 500
_HEALTH_KEY = "health/writable"
_BUSY = frozenset({500, 502, 503, 504})


class S3Store:
    """An `ObjectStore` in a bucket. The bucket must be there: `prepare` makes it."""

    def __init__(
        self, settings: StoreSettings, *, read_timeout_s: float = READ_S, retries: int = _RETRIES
    ) -> None:
        access_key, secret_key = settings.access_key, settings.secret_key
        if not access_key.get_secret_value() or not secret_key.get_secret_value():
            raise SettingsError(
                "MINIO_ACCESS_KEY",
                "missing; set it and MINIO_SECRET_KEY, or SEGUE_STORE_DIR to use a folder",
            )
        url = urlsplit(settings.endpoint)
        if url.scheme not in {"http", "https"} or not url.netloc or url.path.strip("/"):
            raise SettingsError("MINIO_ENDPOINT", "must be http://HOST:PORT or https://HOST:PORT")
        self._bucket = settings.bucket
        self._http = pool_manager(
            connections=settings.threads,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_timeout_s),
            retries=urllib3.Retry(retries, backoff_factor=0.2, status_forcelist=_BUSY),
        )
        self._client = Minio(
            url.netloc,
            access_key=access_key.get_secret_value(),
            secret_key=secret_key.get_secret_value(),
            secure=url.scheme == "https",
            region=settings.region,
            http_client=self._http,
        )
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="store")
        self._presigned = Presigned(
            self._client, self._bucket, timeout=httpx.Timeout(read_timeout_s, connect=_CONNECT_S)
        )

    async def prepare(self) -> None:
        """Make the bucket unless it is there."""

        def make() -> None:
            if self._client.bucket_exists(self._bucket):
                return
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # somebody else was quicker
                    raise

        await self._call(make)

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data` whole, replacing what was there."""
        check_key(key)
        upload = partial(self._upload, key, BytesIO(data), len(data), content_type)
        await self._call(upload, key=key, size_bytes=len(data))

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store a file; in parts, when it is large."""
        check_key(key)
        size_bytes = (await asyncio.to_thread(path.stat)).st_size

        def upload() -> None:
            with path.open("rb") as file:
                self._upload(key, file, size_bytes, content_type)

        await self._call(upload, key=key, size_bytes=size_bytes)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; False when it exists already with other bytes.

        A lost answer is an error, and asking again with the same bytes then says True.
        """
        if await self._presigned.create(check_key(key), data):
            return True
        try:
            return await self.get(key) == data
        except NotFoundError as error:
            raise StoreUnavailableError(f"{key} came and went") from error

    async def get(self, key: str) -> bytes:
        """The whole object."""
        sink = await self._download(key, BytesIO)
        return sink.getvalue()

    async def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, whole or not at all."""
        part = path.with_name(f"{path.name}.part")
        try:
            sink = await self._download(key, lambda: part.open("wb"))
            await asyncio.to_thread(sink.close)
            await asyncio.to_thread(part.replace, path)
        finally:
            part.unlink(missing_ok=True)

    async def stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes `[start, end)` in chunks, each with a deadline of its own."""
        if end is not None and end <= start:
            if await self.stat(key) is None:
                raise NotFoundError(key)
            return
        response = await self._open(key, start, 0 if end is None else end - start)
        if response is None:
            return
        try:
            digest, held = hashlib.sha256(), b""
            while chunk := await self._call(lambda: response.read(CHUNK_BYTES), key=key):
                digest.update(chunk)
                if held:
                    yield held
                held = chunk
            if start == 0 and end is None:
                check_digest(response, digest.hexdigest())  # before the last of it is handed on
            if held:
                yield held
        finally:
            release(response)

    async def stat(self, key: str) -> ObjectStat | None:
        """What is known of `key`; None when there is no such object."""
        check_key(key)
        try:
            found = await self._call(lambda: self._client.stat_object(self._bucket, key), key=key)
        except NotFoundError:
            return None
        return stat_of(found)

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """The objects whose keys begin with `prefix`; their types follow from their endings."""
        found = self._client.list_objects(self._bucket, check_prefix(prefix), recursive=True)
        while page := await self._call(lambda: list(islice(found, _PAGE_OBJECTS))):
            for one in page:
                yield stat_of(one)

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """An address that reads `key` for `ttl_s` seconds, without an account."""
        return self._presigned.link(check_key(key), ttl_s=check_ttl(ttl_s))

    async def delete(self, key: str) -> None:
        """Remove `key`; nothing happens when it is not there."""
        check_key(key)
        await self._call(lambda: self._client.remove_object(self._bucket, key), key=key)

    async def check(self) -> None:
        """Return if an object can be written."""
        await self.put(_HEALTH_KEY, b"")

    async def close(self) -> None:
        """Let go of connections and threads; what still runs in one ends by its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()
        await self._presigned.close()

    def _upload(
        self, key: str, file: BytesIO | BufferedReader, size_bytes: int, content_type: str
    ) -> None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        self._client.put_object(
            self._bucket,
            key,
            file,
            size_bytes,
            content_type,
            metadata={"sha256": digest},
            part_size=_PART_BYTES,
            num_parallel_uploads=1,
        )

    async def _download(self, key: str, new_sink: Callable[[], Sink]) -> Sink:
        """A sink with the whole object in it; read a second time if the first came wrong."""
        for is_last in (False, True):
            response = await self._open(key)
            assert response is not None, "the whole of an object is always in its range"
            read = partial(drain, response, new_sink)
            size_bytes = int(response.headers.get("content-length", 0))
            try:
                return await self._call(read, key=key, size_bytes=size_bytes)
            except StoreUnavailableError:
                if is_last:
                    raise
            finally:
                release(response)
        raise AssertionError("the second time returns or raises")

    async def _open(self, key: str, start: int = 0, length: int = 0) -> BaseHTTPResponse | None:
        """The beginning of an answer, its body unread; None when the range is past the end."""
        check_key(key)

        def ask() -> BaseHTTPResponse | None:
            try:
                response = self._client.get_object(self._bucket, key, start, length)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return None
                raise
            return response

        return await self._call(ask, key=key)

    async def _call(self, call: Callable[[], T], *, key: str = "", size_bytes: int = 0) -> T:
        """`call` in a thread, with a deadline that grows with what it moves; errors are ours.

        A call past its deadline goes on in its thread until the client's own timeouts end it; as
        keys are functions of the work, what it may still write is what was asked for.
        """
        try:
            async with asyncio.timeout(CALL_S + size_bytes / RATE_BYTES_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise NotFoundError(key) from error
            raise StoreUnavailableError(f"object store: {error.code}: {error.message}") from error
        except (MinioException, urllib3.exceptions.HTTPError, TimeoutError, ParseError) as error:
            raise StoreUnavailableError(f"object store: {describe(error)}") from error
