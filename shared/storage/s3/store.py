"""Object store in a bucket of MinIO or a compatible S3 server.

The client library is synchronous and by default waits for up to half an hour, so it runs in its
own threads with short timeouts, and every call has a deadline. Every object has its SHA-256 as
metadata; a download that does not match is repeated once and then rejected, so corrupt bytes are
never returned.

Of a range only the length is verified. `signed` has what the client library cannot do; `refusals`
explains errors. A response to HEAD has no body and so no reason: a GET is sent for it.

Units: sizes are bytes, times seconds. I/O: HTTP.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio, S3Error
from minio.credentials.providers import StaticProvider
from minio.datatypes import Object
from minio.error import InvalidResponseError
from minio.helpers import check_bucket_name
from urllib3.response import BaseHTTPResponse

from shared.errors import NotFoundError, SettingsError, StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat, check_ttl
from shared.storage.keys import check_key, check_prefix
from shared.storage.s3.connections import pool_manager
from shared.storage.s3.refusals import CLIENT_ERRORS, unavailable
from shared.storage.s3.responses import (
    Sink,
    check_digest,
    drain,
    release,
    stat_of,
)
from shared.storage.s3.signed import SignedRequests, credentials_of

T = TypeVar("T")
# of one attempt; the library's defaults are 300 s and 5 retries
_CONNECT_S, READ_S, _RETRIES = 2.0, 10.0, 2
# of one call, plus its transfer: (2 + 10) * 3 attempts, their backoff, and a wait for a thread
_CALL_S = 45.0
_RATE_BYTES_S = 1024 * 1024  # the slowest transfer that is not a timeout
_PART_BYTES = 8 * 1024 * 1024  # larger files are uploaded in parts, one part per thread in memory
_PAGE_OBJECTS = 500
_HEALTH_KEY = "health/writable"
_NO_KEY, _NO_BUCKET = "NoSuchKey", "NoSuchBucket"
_BUSY = frozenset({500, 502, 503, 504})


class S3Store:
    """An `ObjectStore` in a bucket; `prepare` creates the bucket."""

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
        try:
            check_bucket_name(settings.bucket)
        except ValueError as error:
            raise SettingsError("MINIO_BUCKET", f"{error}: {settings.bucket}") from error
        self._settings = settings
        self._bucket = settings.bucket
        self._http = pool_manager(
            connections=settings.threads,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_timeout_s),
            retries=urllib3.Retry(retries, backoff_factor=0.2, status_forcelist=_BUSY),
            ca_file=settings.ca_file,
        )
        account = credentials_of(settings)
        self._client = Minio(
            url.netloc,
            secure=url.scheme == "https",
            region=settings.region,
            http_client=self._http,
            credentials=StaticProvider(
                account.access_key, account.secret_key, account.session_token
            ),
        )
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="store")
        self._signed = SignedRequests(self._client, self._http, settings)

    async def prepare(self) -> None:
        """Create the bucket if it is missing."""

        def create() -> None:
            try:
                listing = self._client.list_objects(self._bucket, _HEALTH_KEY, recursive=True)
                next(iter(listing), None)
            except S3Error as error:
                if error.code != _NO_BUCKET:
                    raise
            else:
                return
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # created concurrently
                    raise

        await self._call(create)

    async def put(self, key: str, data: bytes, *, content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        """Store `data`, replacing the object."""
        check_key(key)
        upload = partial(self._upload, key, BytesIO(data), len(data), content_type)
        await self._call(upload, key=key, size_bytes=len(data))

    async def put_file(
        self, key: str, path: Path, *, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> None:
        """Store a file, in parts if it is large."""
        check_key(key)
        size_bytes = (await asyncio.to_thread(path.stat)).st_size

        def upload() -> None:
            with path.open("rb") as file:
                self._upload(key, file, size_bytes, content_type)

        await self._call(upload, key=key, size_bytes=size_bytes)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key`; return False if it exists with other bytes.

        A lost response is an error; a retry with the same bytes returns True.
        """
        create = partial(self._signed.create, check_key(key), data)
        if await self._call(create, key=key, size_bytes=len(data)):
            return True
        try:
            return await self.get(key) == data
        except NotFoundError as error:
            raise StoreUnavailableError(f"{key} was created and deleted concurrently") from error

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        sink = await self._download(key, BytesIO)
        return sink.getvalue()

    async def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path`, whole or not at all."""
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
        """Yield the bytes `[start, end)` in chunks, each with its own deadline."""
        if end is not None and end <= start:
            if await self.stat(key) is None:
                raise NotFoundError(key)
            return
        response = await self._open(key, start, 0 if end is None else end - start)
        if response is None:
            return
        try:
            digest, last_chunk = hashlib.sha256(), b""
            while chunk := await self._call(lambda: response.read(CHUNK_BYTES), key=key):
                digest.update(chunk)
                if last_chunk:
                    yield last_chunk
                last_chunk = chunk
            if start == 0 and end is None:
                check_digest(response, digest.hexdigest())  # before the last chunk is yielded
            if last_chunk:
                yield last_chunk
        finally:
            release(response)

    async def stat(self, key: str) -> ObjectStat | None:
        """Return the metadata of `key`; None if it does not exist."""
        check_key(key)
        try:
            item = await self._call(partial(self._head, key), key=key)
        except NotFoundError:
            return None
        return stat_of(item)

    async def list_objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`; types follow from extensions."""
        listing = self._client.list_objects(self._bucket, check_prefix(prefix), recursive=True)
        while page := await self._call(lambda: list(islice(listing, _PAGE_OBJECTS))):
            for item in page:
                yield stat_of(item)

    def presigned_url(self, key: str, *, ttl_s: int) -> str | None:
        """Return a URL that reads `key` for `ttl_s` seconds without an account."""
        return self._signed.link(check_key(key), ttl_s=check_ttl(ttl_s))

    async def delete(self, key: str) -> None:
        """Delete `key`; no effect if it does not exist."""
        check_key(key)
        await self._call(lambda: self._client.remove_object(self._bucket, key), key=key)

    async def check(self) -> None:
        """Return if the store is writable."""
        await self.put(_HEALTH_KEY, b"")

    async def close(self) -> None:
        """Close connections and threads; running calls end by their own timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    def _head(self, key: str) -> Object:
        try:
            return self._client.stat_object(self._bucket, key)
        except S3Error:
            response = self._request(key, 0, 1)  # raises the same error with its reason
            if response is not None:
                release(response)
            return self._client.stat_object(self._bucket, key)  # it was created meanwhile

    def _upload(
        self, key: str, file: BytesIO | BufferedReader, size_bytes: int, content_type: str
    ) -> None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        result = self._client.put_object(
            self._bucket,
            key,
            file,
            size_bytes,
            content_type,
            metadata={"sha256": digest},
            part_size=_PART_BYTES,
            num_parallel_uploads=1,
        )
        if not result.etag:  # some other HTTP server
            raise InvalidResponseError(HTTPStatus.OK, "no ETag", None)

    async def _download(self, key: str, new_sink: Callable[[], Sink]) -> Sink:
        """Return a sink with the whole object; repeats a corrupt download once."""
        for is_last in (False, True):
            response = await self._open(key)
            assert response is not None, "a request without a range always has a response"
            drain_response = partial(drain, response, new_sink)
            size_bytes = int(response.headers.get("content-length", 0))
            try:
                return await self._call(drain_response, key=key, size_bytes=size_bytes)
            except StoreUnavailableError:
                if is_last:
                    raise
            finally:
                release(response)
        raise AssertionError("the second attempt returns or raises")

    async def _open(self, key: str, start: int = 0, length: int = 0) -> BaseHTTPResponse | None:
        """Return a response, its body unread; None if the range is past the end."""
        check_key(key)

        return await self._call(partial(self._request, key, start, length), key=key)

    def _request(self, key: str, start: int, length: int) -> BaseHTTPResponse | None:
        try:
            return self._client.get_object(self._bucket, key, start, length)
        except S3Error as error:
            if error.code == "InvalidRange":
                return None
            raise

    async def _call(self, call: Callable[[], T], *, key: str = "", size_bytes: int = 0) -> T:
        """Run `call` in a thread with a deadline that grows with its size; map its errors.

        A call past its deadline continues in its thread until the client's timeouts end it; keys
        are functions of the work, so whatever it still writes is correct.
        """
        try:
            async with asyncio.timeout(_CALL_S + size_bytes / _RATE_BYTES_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except CLIENT_ERRORS as error:
            if isinstance(error, S3Error) and error.code == _NO_KEY:
                raise NotFoundError(key) from error
            raise unavailable(error, self._settings) from error
