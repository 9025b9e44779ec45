"""Presigned: requests to an S3 server by an address that holds its own signature.

Two things leave the vendor's client this way: creating an object only if it is absent, which no
public call of it can say, and a link for somebody who has no account.

Units: seconds, bytes. I/O: HTTP.
"""

import asyncio
import hashlib
from datetime import timedelta
from http import HTTPStatus

import httpx
from minio import Minio

from shared.errors import StoreUnavailableError

CALL_S = 45.0  # of one call, whatever it moves
RATE_BYTES_S = 1024 * 1024  # the slowest line on which a transfer is still called one
DIGEST = "x-amz-meta-sha256"  # what every object carries
_URL_LIFE = timedelta(minutes=5)  # room for clocks that differ; the URL never leaves this file


class Presigned:
    """Signs with the account of `client`."""

    def __init__(self, client: Minio, bucket: str, *, timeout: httpx.Timeout) -> None:
        self._client = client
        self._bucket = bucket
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def create(self, key: str, data: bytes) -> bool:
        """Create `key`, with its digest beside it; False when it exists already.

        Raises:
            StoreUnavailableError: it is not known whether it was created.
        """
        # in the address: headers of one's own are not signed
        digest: dict[str, str | list[str] | tuple[str]] = {DIGEST: hashlib.sha256(data).hexdigest()}
        url = self._client.get_presigned_url(
            "PUT", self._bucket, key, _URL_LIFE, extra_query_params=digest
        )
        try:
            async with asyncio.timeout(CALL_S + len(data) / RATE_BYTES_S):
                answer = await self._http.put(url, content=data, headers={"If-None-Match": "*"})
        except (httpx.HTTPError, TimeoutError) as error:
            raise StoreUnavailableError(f"object store: {describe(error)}") from error
        if answer.status_code == HTTPStatus.PRECONDITION_FAILED:
            return False
        if not answer.is_success:
            raise StoreUnavailableError(f"object store: {answer.status_code} for {key}")
        return True

    def link(self, key: str, *, ttl_s: int) -> str:
        """An address that reads `key` for `ttl_s` seconds."""
        return self._client.presigned_get_object(self._bucket, key, timedelta(seconds=ttl_s))

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()


def describe(error: Exception) -> str:
    """What a client's error says, in short."""
    return f"{type(error).__name__}: {error}".rstrip(": ")[:300]
