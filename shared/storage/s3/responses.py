"""Reads and verifies responses of an S3 server.

`connections` rejects truncated headers. I/O: reads the connection of a response.
"""

import hashlib
import mimetypes
from collections.abc import Callable
from contextlib import ExitStack
from io import BufferedWriter, BytesIO
from typing import TypeVar

from minio.datatypes import Object
from urllib3.response import BaseHTTPResponse

from shared.errors import StoreUnavailableError
from shared.storage import CHUNK_BYTES, DEFAULT_CONTENT_TYPE, ObjectStat
from shared.storage.s3.signed import DIGEST

Sink = TypeVar("Sink", BytesIO, BufferedWriter)


def drain(response: BaseHTTPResponse, new_sink: Callable[[], Sink]) -> Sink:
    """Return a sink with the whole body, verified against its digest."""
    digest = hashlib.sha256()
    with ExitStack() as undo:
        sink = new_sink()
        undo.callback(sink.close)
        while chunk := response.read(CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
        check_digest(response, digest.hexdigest())
        undo.pop_all()
    return sink


def check_digest(response: BaseHTTPResponse, digest: str) -> None:
    """Return if `digest` matches the object's; objects of other writers have none.

    Raises:
        StoreUnavailableError: it does not match.
    """
    if response.headers.get(DIGEST) not in {None, digest}:
        raise StoreUnavailableError("object store: checksum mismatch")


def release(response: BaseHTTPResponse) -> None:
    """Return the connection to its pool if the response was read; close it otherwise."""
    response.close()
    response.release_conn()


def stat_of(item: Object) -> ObjectStat:
    """Return the metadata of an object.

    Raises:
        StoreUnavailableError: the response lacks some of it.
    """
    if not item.object_name or not item.last_modified or not item.etag or item.size is None:
        raise StoreUnavailableError("object store: response without size, date or ETag")
    guess = mimetypes.guess_type(item.object_name)[0]
    return ObjectStat(
        key=item.object_name,
        size_bytes=item.size,
        etag=item.etag.strip('"'),
        content_type=item.content_type or guess or DEFAULT_CONTENT_TYPE,
        modified_at=item.last_modified,
    )
