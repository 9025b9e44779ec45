"""Receives request bodies with limits on size, rate and time.

A body that is too large is rejected as early as possible: by its Content-Length, else at the
first byte over the limit. A slow one is rejected once it is behind the minimum rate. Only the time
spent waiting for the client counts, so a slow disk here is not the client's fault. The rest of a
rejected body is discarded for a few seconds (`LimitedProtocol.rest_s`), so that the client can read
the response.

Units: bytes, seconds.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from starlette.requests import ClientDisconnect

from services.api.http.problems import ProblemError

WRITE_BYTES = 256 * 1024  # bytes per write in the disk thread


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Limits on one request body."""

    bytes_max: int
    stall_s: float  #: without a byte, and of delay below the rate
    rate_min: int  #: bytes per second
    total_s: float


async def receive_parts(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    """Yield the body part by part.

    Raises:
        ProblemError: the body is too large (413), too slow (408) or incomplete (400).
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.bytes_max:
        raise _too_large(int(announced), limits.bytes_max)
    received, waited_s = 0, 0.0
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limits.total_s
    stream = aiter(request.stream())
    while True:
        start_s = loop.time()
        behind_s = limits.stall_s + received / limits.rate_min - waited_s
        try:
            async with asyncio.timeout(min(limits.stall_s, behind_s, end_s - start_s)):
                part = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _too_slow(received, waited_s + loop.time() - start_s, limits) from error
        except ClientDisconnect as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the body is incomplete") from error
        waited_s += loop.time() - start_s
        received += len(part)
        if received > limits.bytes_max:
            raise _too_large(received, limits.bytes_max)
        if loop.time() > end_s:
            raise _too_slow(received, waited_s, limits)
        yield part


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A request body in a temporary file."""

    path: Path
    size_bytes: int
    sha256: str


@asynccontextmanager
async def saved_file(
    parts: AsyncIterable[bytes], *, folder: Path | None, reserve: Callable[[int], None]
) -> AsyncIterator[ReceivedFile]:
    """Yield the parts of a body as a temporary file, deleted afterwards; reserve its space."""
    digest, size = hashlib.sha256(), 0
    pending = bytearray()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="segue-video-") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)
            file.flush()

        async for part in parts:
            size += len(part)
            reserve(len(part))
            pending += part
            if len(pending) >= WRITE_BYTES:
                await asyncio.to_thread(write, bytes(pending))
                pending.clear()
        await asyncio.to_thread(write, bytes(pending))
        yield ReceivedFile(path=Path(file.name), size_bytes=size, sha256=digest.hexdigest())


def media_type(request: Request) -> str:
    """Return the media type of the body, lower case; empty: the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(size: int, bytes_max: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has {size} bytes or more, at most {bytes_max} are allowed",
    )


def _too_slow(received: int, seconds: float, limits: BodyLimits) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_TIMEOUT,
        f"the body is too slow: {received} bytes in {seconds:.0f} s; send at least "
        f"{limits.rate_min} bytes per second (SEGUE_RECEIVE_RATE_MIN), no pause over "
        f"{limits.stall_s:g} s (SEGUE_RECEIVE_TIMEOUT_S), and all within {limits.total_s:g} s",
    )
