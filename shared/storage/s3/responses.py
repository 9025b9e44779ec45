"""Answers: what an S3 server said, believed only as far as it is what was stored.

That its head came whole is seen to in `heads`. I/O: reads the connection that an answer comes on.
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
from shared.storage.s3.presigned import DIGEST

Sink = TypeVar("Sink", BytesIO, BufferedWriter)


def drain(response: BaseHTTPResponse, new_sink: Callable[[], Sink]) -> Sink:
    """A sink with the body in it, which is known to be what was stored."""
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
    """Whether `digest` is that of what was stored; files of others carry none.

    Raises:
        StoreUnavailableError: it is not.
    """
    if response.headers.get(DIGEST) not in {None, digest}:
        raise StoreUnavailableError("object store: other bytes came than were stored")


def release(response: BaseHTTPResponse) -> None:
    """Give the connection back if its answer was read to the end; close it otherwise."""
    response.close()
    response.release_conn()


def stat_of(found: Object) -> ObjectStat:
    """What an answer says of an object.

    Raises:
        StoreUnavailableError: it says too little.
    """
    if not found.object_name or not found.last_modified or not found.etag or found.size is None:
        raise StoreUnavailableError("object store: an answer says too little of an object")
    guess = mimetypes.guess_type(found.object_name)[0]
    return ObjectStat(
        key=found.object_name,
        size_bytes=found.size,
        etag=found.etag.strip('"'),
        content_type=found.content_type or guess or DEFAULT_CONTENT_TYPE,
        modified_at=found.last_modified,
    )
