"""Receives uploads, a limited number at a time, and stores each file once.

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
    """Yield the uploaded body as a temporary file, deleted afterwards.

    Raises:
        ProblemError: the body is a form (415), too many concurrent uploads (503), or as
            `receive_parts`.
    """
    _check_not_a_form(request)
    if context.uploads.locked():
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"too many concurrent uploads; retry in {BUSY_S} s",
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


def _check_not_a_form(request: Request) -> None:
    """Raise if the client sends the file as a field of a form, as `curl -F` does."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body is a form ({kind}): send the file as the request body, e.g. "
            "curl --data-binary @FILE -H 'Content-Type: application/octet-stream' "
            f"{request.url.replace(query='')}",
            headers={"Connection": "close"},
        )


async def store_upload(context: ApiContext, received: ReceivedFile, *, content_type: str) -> str:
    """Store the file and return its key; the same bytes are stored once.

    An older copy is written again, because an upload that is old and not referenced by any job
    may be deleted by `segue store sweep` at any time.
    """
    key = upload_key(received.sha256)
    stat = await context.store.stat(key)
    is_complete = stat is not None and stat.size_bytes == received.size_bytes
    if stat is None or not is_complete or context.clock.now() - stat.modified_at > FRESH:
        await context.store.put_file(key, received.path, content_type=content_type)
    return key
