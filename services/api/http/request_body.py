"""Receives request bodies with limits on size and time.

A body that is too large is rejected as early as possible: by its Content-Length, else at the
first byte over the limit. Nothing of it is stored.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from starlette.requests import ClientDisconnect

from services.api.http.problems import ProblemError

WRITE_BYTES = 1024 * 1024  # bytes per write in the disk thread


async def read_json(request: Request, *, bytes_max: int, part_s: float) -> bytes:
    """Return the body of a JSON request.

    Raises:
        ProblemError: the Content-Type is not JSON (415), too large (413), too slow (408).
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json" and not kind.lower().endswith("+json"):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"unsupported Content-Type {kind!r}: send JSON with Content-Type: application/json",
        )
    parts = [part async for part in receive_parts(request, bytes_max=bytes_max, part_s=part_s)]
    return b"".join(parts)


async def receive_parts(request: Request, *, bytes_max: int, part_s: float) -> AsyncIterator[bytes]:
    """Yield the body part by part.

    Raises:
        ProblemError: the body is longer than `bytes_max` (413), or stalls (408).
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise _too_large(int(announced), bytes_max)
    received = 0
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(part_s):
                part = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT, f"no data received for {part_s:g} s"
            ) from error
        except ClientDisconnect as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the body is incomplete") from error
        received += len(part)
        if received > bytes_max:
            raise _too_large(received, bytes_max)
        yield part


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A request body in a temporary file."""

    path: Path
    size_bytes: int
    sha256: str


@asynccontextmanager
async def received_file(
    request: Request, *, bytes_max: int, part_s: float, folder: Path | None
) -> AsyncIterator[ReceivedFile]:
    """Yield the body as a temporary file, deleted afterwards.

    Raises:
        ProblemError: as `receive_parts`.
    """
    digest, size = hashlib.sha256(), 0
    pending = bytearray()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="segue-video-") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)
            file.flush()

        async for part in receive_parts(request, bytes_max=bytes_max, part_s=part_s):
            size += len(part)
            pending += part
            if len(pending) >= WRITE_BYTES:
                await asyncio.to_thread(write, bytes(pending))
                pending.clear()
        await asyncio.to_thread(write, bytes(pending))
        yield ReceivedFile(path=Path(file.name), size_bytes=size, sha256=digest.hexdigest())


def _too_large(size: int, bytes_max: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has {size} bytes or more, at most {bytes_max} are allowed",
        headers={"Connection": "close"},
    )
