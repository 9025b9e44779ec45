"""S3: a bucket of MinIO, or of its kin, as object store.

The vendor's client is synchronous and would hang for half an hour by itself, so it runs in
threads of its own with short timeouts, and every call has a deadline over that. Every object
carries its SHA-256; a download that does not match is read once more and then refused, so wrong
bytes are never handed on.

Units: sizes are bytes, times seconds. I/O: HTTP; only `put_if_absent` leaves the vendor's client,
whose public calls cannot say "only if absent".
"""

import asyncio
import hashlib
import mimetypes
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpx
import urllib3
from minio import Minio, S3Error
from minio.datatypes import Object
from minio.error import MinioException
from urllib3.response import BaseHTTPResponse

from shared.errors import NotFoundError, SettingsError, StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat
from shared.storage.keys import check_key, check_prefix

T = TypeVar("T")
_CONNECT_S, _READ_S, _RETRIES = 2.0, 10.0, 2  # of one try; the vendor's own are 300 s and 5
_CALL_S = 45.0  # (2 + 10) * 3 tries with their backoff, and a wait for a thread
_RATE_BYTES_S = 1024 * 1024  # the slowest line on which a transfer is still called one
_PART_BYTES = 8 * 1024 * 1024  # a larger file goes up in parts; one part a thread lies in memory
_PAGE_OBJECTS = 500
_URL_LIFE = timedelta(minutes=5)  # room for clocks that differ; the URL never leaves this file
_SHA256 = "sha256"  # the name of the user metadata
_SHA256_HEADER = f"x-amz-meta-{_SHA256}"
_HEALTH_KEY = "health/writable"
_BUSY = frozenset({500, 502, 503, 504})


class S3Store:
    """An `ObjectStore` in a bucket. The bucket must be there: `ensure_bucket` makes it."""

    def __init__(self, settings: StoreSettings) -> None:
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
        self._http = urllib3.PoolManager(
            maxsize=settings.threads,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            retries=urllib3.Retry(_RETRIES, backoff_factor=0.2, status_forcelist=_BUSY),
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
        self._direct = httpx.AsyncClient(
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S), trust_env=False
        )

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""

        def make() -> None:
            if not self._client.bucket_exists(self._bucket):
                with suppress_code("BucketAlreadyOwnedByYou"):
                    self._client.make_bucket(self._bucket)

        await self._call(make)

    async def put(
        self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store `data` whole, replacing what was there."""
        check_key(key)

        def upload() -> None:
            self._client.put_object(
                self._bucket,
                key,
                BytesIO(data),
                len(data),
                content_type,
                metadata={_SHA256: hashlib.sha256(data).hexdigest()},
                part_size=_PART_BYTES,
                num_parallel_uploads=1,
            )

        await self._call(upload, key=key, size_bytes=len(data))

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store a file; in parts, when it is large."""
        check_key(key)
        size_bytes = (await asyncio.to_thread(path.stat)).st_size

        def upload() -> None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, _SHA256).hexdigest()
            self._client.fput_object(
                self._bucket,
                key,
                str(path),
                content_type,
                metadata={_SHA256: digest},
                part_size=_PART_BYTES,
                num_parallel_uploads=1,
            )

        await self._call(upload, key=key, size_bytes=size_bytes)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; False when it exists already with other bytes.

        A lost answer is an error, and asking again with the same bytes then says True.
        """
        url = self._client.presigned_put_object(self._bucket, check_key(key), _URL_LIFE)
        try:
            async with asyncio.timeout(_CALL_S + len(data) / _RATE_BYTES_S):
                answer = await self._direct.put(url, content=data, headers={"If-None-Match": "*"})
        except (httpx.HTTPError, TimeoutError) as error:
            raise StoreUnavailableError(f"object store: {_words(error)}") from error
        if answer.status_code == HTTPStatus.PRECONDITION_FAILED:
            try:
                return await self.get(key) == data
            except NotFoundError as error:
                raise StoreUnavailableError(f"{key} came and went") from error
        if not answer.is_success:
            raise StoreUnavailableError(f"object store: {answer.status_code} for {key}")
        return True

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
            while chunk := await self._call(lambda: response.read(CHUNK_BYTES), key=key):
                yield chunk
        finally:
            _let_go(response)

    async def stat(self, key: str) -> ObjectStat | None:
        """What is known of `key`; None when there is no such object."""
        check_key(key)
        try:
            found = await self._call(lambda: self._client.stat_object(self._bucket, key), key=key)
        except NotFoundError:
            return None
        return _stat(found)

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """The objects whose keys begin with `prefix`; their types follow from their endings."""
        found = self._client.list_objects(self._bucket, check_prefix(prefix), recursive=True)
        while page := await self._call(lambda: list(islice(found, _PAGE_OBJECTS))):
            for one in page:
                yield _stat(one)

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
        await self._direct.aclose()
