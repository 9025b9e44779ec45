"""A response of an S3 server that is cut at any byte is an error."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from pydantic import SecretStr

from shared.errors import StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage.s3.store import S3Store

T = TypeVar("T")
BODY = b"ten bytes!"
HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Accept-Ranges: bytes\r\n"
    f"Content-Length: {len(BODY)}\r\n"
    "Content-Type: audio/mpeg\r\n"
    'ETag: "0123456789abcdef"\r\n'
    "Last-Modified: Fri, 27 Nov 2026 03:41:07 GMT\r\n"
    "X-Amz-Request-Id: 1876\r\n"
    f"x-amz-meta-sha256: {hashlib.sha256(BODY).hexdigest()}\r\n"
    "\r\n"
).encode()


@asynccontextmanager
async def _cutting(answer: bytes) -> AsyncIterator[tuple[S3Store, list[int]]]:
    """Yield a store whose server closes each connection after some bytes."""
    at = [len(answer)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer[: at[0]])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = S3Store(
        StoreSettings(
            endpoint=f"http://127.0.0.1:{port}",
            access_key=SecretStr("a user"),
            secret_key=SecretStr("a secret"),
        ),
        retries=0,  # a retry would be cut again
    )
    try:
        yield store, at
    finally:
        await store.close()
        server.close()
        await server.wait_closed()


async def _cut_everywhere(answer: bytes, ask: Callable[[S3Store], Awaitable[T]]) -> T:
    """Return the complete result; a response cut at any byte is an error."""
    async with _cutting(answer) as (store, at):
        for cut in range(len(answer)):
            at[0] = cut
            with pytest.raises(StoreUnavailableError):
                await ask(store)
        at[0] = len(answer)
        return await ask(store)


async def test_truncated_response_of_get_is_an_error() -> None:
    """An empty Content-Length looked like an empty object."""
    came = await _cut_everywhere(HEAD + BODY, lambda store: store.get("jobs/1/track.mp3"))
    assert came == BODY


async def test_truncated_response_of_stat_is_an_error() -> None:
    """Half a length, half a date, half an ETag."""
    stat = await _cut_everywhere(HEAD, lambda store: store.stat("jobs/1/track.mp3"))
    assert stat is not None
    assert (stat.size_bytes, stat.etag) == (len(BODY), "0123456789abcdef")
