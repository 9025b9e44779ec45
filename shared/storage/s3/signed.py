"""Signed requests of an S3 server: create-if-absent, and links without an account.

The client library has no public call for a conditional put. Its signer signs one here with all its
headers: servers take metadata from headers only (MinIO also from the query of a presigned URL), and
a proxy that removes the condition invalidates the signature instead of overwriting a claim.

Units: seconds, bytes. I/O: HTTP; calls block.
"""

import hashlib
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import urlsplit

import urllib3
from minio import Minio, S3Error
from minio.credentials.credentials import Credentials
from minio.error import InvalidResponseError
from minio.helpers import DictType
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow
from urllib3.response import BaseHTTPResponse

from shared.settings import StoreSettings

DIGEST = "x-amz-meta-sha256"  # on every object
_URL_LIFE = timedelta(minutes=5)  # of a URL whose query is discarded
_XML = "application/xml"


def credentials_of(settings: StoreSettings) -> Credentials:
    """Return the account; with a token, the session's."""
    return Credentials(
        settings.access_key.get_secret_value(),
        settings.secret_key.get_secret_value(),
        settings.session_token.get_secret_value() or None,
    )


class SignedRequests:
    """Signs requests to one bucket with the account of `settings`."""

    def __init__(
        self, client: Minio, connections: urllib3.PoolManager, settings: StoreSettings
    ) -> None:
        self._client = client
        self._connections = connections
        self._bucket = settings.bucket
        self._region = settings.region
        self._credentials = credentials_of(settings)

    def create(self, key: str, data: bytes) -> bool:
        """Create `key` with its digest; return False if it exists.

        It is sent once: the response to a retry would not tell who created the object.

        Raises:
            MinioException, urllib3.exceptions.HTTPError: it is unknown whether it was created.
        """
        presigned = self._client.get_presigned_url("PUT", self._bucket, key, _URL_LIFE)
        url = urlsplit(presigned)._replace(query="")
        digest, now = hashlib.sha256(data).hexdigest(), utcnow()
        headers: DictType = {
            "Host": url.netloc,
            "If-None-Match": "*",
            "x-amz-content-sha256": digest,
            "x-amz-date": to_amz_date(now),
            DIGEST: digest,
        }
        if self._credentials.session_token:
            headers["x-amz-security-token"] = self._credentials.session_token
        signed = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._region,
            headers=headers,
            credentials=self._credentials,
            content_sha256=digest,
            date=now,
        )
        response = self._connections.request(
            "PUT",
            url.geturl(),
            body=data,
            headers={name: str(value) for name, value in signed.items()},
            retries=False,
        )
        if response.status == HTTPStatus.PRECONDITION_FAILED:
            return False
        if response.status != HTTPStatus.OK or not response.headers.get("etag"):
            raise _error_of(response)
        return True

    def link(self, key: str, *, ttl_s: int) -> str:
        """Return a URL that reads `key` for `ttl_s` seconds."""
        return self._client.presigned_get_object(self._bucket, key, timedelta(seconds=ttl_s))


def _error_of(response: BaseHTTPResponse) -> S3Error | InvalidResponseError:
    """Return the error that the client library raises for such a response."""
    content_type = response.headers.get("content-type", "")
    if response.data and _XML in content_type:
        return S3Error.fromxml(response)
    return InvalidResponseError(
        response.status, content_type, response.data.decode("utf-8", "replace")
    )
