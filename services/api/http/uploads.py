"""Uploading: files that clients hand in, as many at once as may, each kept once.

I/O: the request's body, a temporary file, the store.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus

from fastapi import Request

from services.api.http.context import ApiContext
from services.api.http.problems import ProblemError
from services.api.http.request_body import ReceivedFile, received_file
from shared.storage.keys import upload_key

BUSY_S = 10
FRESH = timedelta(days=1)


@asynccontextmanager
async def receive_upload(
    request: Request, context: ApiContext, *, bytes_max: int
) -> AsyncIterator[ReceivedFile]:
    """The body as a file that is gone afterwards.

    Raises:
        ProblemError: too many come in already (503), or as `receiving.bounded`.
    """
    if context.uploads.locked():
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "as many files come in as may at once",
            headers={"Retry-After": str(BUSY_S)},
        )
    async with (
        context.uploads,
        received_file(
            request,
            bytes_max=bytes_max,
            part_s=context.settings.limits.receive_s,
            folder=context.settings.scratch_dir,
        ) as received,
    ):
        yield received


async def kept(context: ApiContext, received: ReceivedFile, *, content_type: str) -> str:
    """The key of the file in the store; the same bytes are stored once.

    Where they lie for longer already they are put again: what is old and named by no job may be
    swept out at any moment.
    """
    key = upload_key(received.sha256)
    found = await context.store.stat(key)
    whole = found is not None and found.size_bytes == received.size_bytes
    if found is None or not whole or context.clock.now() - found.modified_at > FRESH:
        await context.store.put_file(key, received.path, content_type=content_type)
    return key
