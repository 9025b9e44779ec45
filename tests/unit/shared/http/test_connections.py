"""Slow clients, too many connections and ambiguous requests, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.http.connections import _client_of, limited_protocol
from shared.http.server import HttpServer, bind_socket

HEAD_S, REST_S, WRITE_S = 0.15, 0.2, 0.3
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond without reading the body; `/large` with 64 MiB, `/wait` after the client left."""

    async def large() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 2**20

    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    response = StreamingResponse(large()) if scope["path"] == "/large" else PlainTextResponse("ok")
    await response(scope, receive, send)


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """Serve the application; yield the port."""
    protocol = limited_protocol(8, head_s=HEAD_S, rest_s=REST_S, write_s=WRITE_S)
    server = HttpServer(_app, bind_socket("127.0.0.1", 0), stop_s=1, http=protocol)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()


async def opened(port: int, data: bytes = b"") -> Stream:
    """Return a connection on which `data` was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def until_closed(stream: Stream, *, drip: bytes = b"") -> tuple[bytes, float]:
    """Send `drip` every 20 ms until the server closes; return what it sent, and the seconds."""
    reader, writer = stream
    loop = asyncio.get_running_loop()
    start, received = loop.time(), b""
    async with asyncio.timeout(5):
        while True:
            try:
                async with asyncio.timeout(0.02):
                    part = await reader.read(65_536)
            except TimeoutError:
                writer.write(drip)
                continue
            except ConnectionError:
                break
            received += part
            if not part:
                break
    writer.close()
    return received, loop.time() - start


def closed(reason: str) -> float:
    """Return how many connections were closed for this reason."""
    value = REGISTRY.get_sample_value("segue_http_connections_closed_total", {"reason": reason})
    return value or 0.0


@pytest.mark.parametrize(
    ("sent", "drip", "reason", "within_s"),
    [
        (b"", b"", "head", HEAD_S),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a", "head", HEAD_S),
        (GET + b"GET / HTTP/1.1\r\nA: ", b"a", "head", HEAD_S),
        (POST + b"Content-Length: 9000\r\n\r\n", b"a", "rest", REST_S),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", "rest", REST_S),
    ],
)
async def test_a_slow_request_is_closed_at_its_deadline(
    sent: bytes, drip: bytes, reason: str, within_s: float
) -> None:
    """Heads that never end, bodies after their response: one byte at a time does not help."""
    before = closed(reason)
    async with served() as port:
        _, seconds = await until_closed(await opened(port, sent), drip=drip)

    assert within_s * 0.8 <= seconds < within_s + 1.0
    assert closed(reason) == before + 1


async def test_a_client_that_does_not_read_is_closed() -> None:
    """Its response is not kept in memory without end."""
    before = closed("write")
    async with served() as port:
        reader, writer = await opened(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            while closed("write") == before:  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.02)
        received, _ = await until_closed((reader, writer))

    assert len(received) < 64 * 2**20


async def test_an_idle_connection_stays_open_between_two_requests() -> None:
    """The deadline of a head starts with its first byte; keep-alive has its own."""
    async with served() as port:
        reader, writer = await opened(port, GET)
        first = await reader.readuntil(b"ok")
        await asyncio.sleep(HEAD_S * 2)
        writer.write(GET)
        second = await reader.readuntil(b"ok")
        writer.close()

    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")


async def test_the_oldest_waiting_connection_makes_room_for_a_new_one() -> None:
    """Requests in progress stay; 3/4 of the connections are one client's limit."""
    async with served() as port:
        busy = await opened(port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        slow = [await opened(port, b"GET / HTTP/1.1\r\n") for _ in range(5)]
        reader, writer = await opened(port, GET)
        answer = await reader.readuntil(b"ok")
        oldest, _ = await until_closed(slow[0])
        still_open = not busy[0].at_eof()
        for stream in (busy, *slow, (reader, writer)):
            stream[1].close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert oldest == b""
    assert still_open


async def test_a_connection_over_the_limit_is_refused_if_all_are_in_use() -> None:
    """No request in progress is interrupted."""
    before = closed("limit")
    async with served() as port:
        busy = [await opened(port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(6)]
        await asyncio.sleep(0.05)
        refused, seconds = await until_closed(await opened(port, GET))
        for stream in busy:
            stream[1].close()

    assert (refused, seconds < HEAD_S) == (b"", True)
    assert closed("limit") == before + 1


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + GET,
        POST + b"Content-Length: +5\r\n\r\nhello" + GET,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + GET,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + GET,
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + GET,
        b"GET / HTTP/1.1\r\n\r\n" + GET,
    ],
)
async def test_an_ambiguous_request_is_rejected_and_its_connection_closed(head: bytes) -> None:
    """The bytes behind it are never read as a second request."""
    async with served() as port:
        received, _ = await until_closed(await opened(port, head))

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"x-content-type-options: nosniff" in received.lower()


def test_a_client_of_ipv6_is_its_network() -> None:
    """One host has 2**64 addresses; an IPv4 address in IPv6 is the same client."""
    hosts: Sequence[str] = ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1", "::ffff:192.0.2.7"]
    first, second, third, mapped = map(_client_of, hosts)

    assert first == second != third
    assert mapped == _client_of("192.0.2.7")
