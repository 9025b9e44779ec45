"""Presigned URLs of an S3 server: create-if-absent, and links without an account.

The client library has no public call for a conditional put, so it is sent to a presigned URL.

Units: seconds, bytes. I/O: HTTP.
"""

import asyncio
import hashlib
from datetime import timedelta
from http import HTTPStatus

import httpx
from minio import Minio

from shared.errors import StoreUnavailableError

CALL_S = 45.0  # of one call, plus its transfer
RATE_BYTES_S = 1024 * 1024  # the slowest transfer that is not a timeout
DIGEST = "x-amz-meta-sha256"  # on every object
_URL_LIFE = timedelta(minutes=5)  # allows for clock differences; the URL stays in this module


class Presigned:
    """Signs URLs with the account of `client`."""

    def __init__(self, client: Minio, bucket: str, *, timeout: httpx.Timeout) -> None:
        self._client = client
        self._bucket = bucket
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def create(self, key: str, data: bytes) -> bool:
        """Create `key` with its digest; return False if it exists.

        Raises:
            StoreUnavailableError: it is unknown whether it was created.
        """
        # in the query: custom headers are not signed
        digest: dict[str, str | list[str] | tuple[str]] = {DIGEST: hashlib.sha256(data).hexdigest()}
        url = self._client.get_presigned_url(
            "PUT", self._bucket, key, _URL_LIFE, extra_query_params=digest
        )
        try:
            async with asyncio.timeout(CALL_S + len(data) / RATE_BYTES_S):
                response = await self._http.put(url, content=data, headers={"If-None-Match": "*"})
        except (httpx.HTTPError, TimeoutError) as error:
            raise StoreUnavailableError(f"object store: {describe(error)}") from error
        if response.status_code == HTTPStatus.PRECONDITION_FAILED:
            return False
        if not response.is_success:
            raise StoreUnavailableError(f"object store: {response.status_code} for {key}")
        return True

    def link(self, key: str, *, ttl_s: int) -> str:
        """Return a URL that reads `key` for `ttl_s` seconds."""
        return self._client.presigned_get_object(self._bucket, key, timedelta(seconds=ttl_s))

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()


def describe(error: Exception) -> str:
    """Return a client error as a short text."""
    return f"{type(error).__name__}: {error}".rstrip(": ")[:300]
