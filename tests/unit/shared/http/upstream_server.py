"""An HTTP server on loopback with prepared responses that records requests."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Answer:
    """One prepared response; a body shorter than `promised` is truncated."""

    status: str = "200 OK"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    promised: int | None = None  #: Content-Length; None: the body's; -1: none is sent
    silent: bool = False  #: reads the request and never answers
    ranges: bool = False  #: answers a Range header with the part
    pause_s: float | None = None  #: between the bytes of the body, sent one by one
    endless_header: bool = False  #: sends header lines, one every 10 ms


@dataclass(slots=True)
class Upstream:
    """Responses by path, and the recorded requests."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  #: headers, as received
    connections: int = 0
    slow: int = 0  #: responses in progress that are sent slowly
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send one response and close the connection."""
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(head)
            answer = self.answers.get(head.split(" ")[1], Answer(status="404 Not Found"))
            if answer.silent:
                await reader.read()  # until the client gives up
            elif answer.endless_header:
                writer.write(b"HTTP/1.1 200 OK\r\n")
                await self._trickle(writer, b"a: b\r\n" * 10_000, size=6, pause_s=0.01)
            elif answer.pause_s is not None:
                writer.write(_head(answer))
                await self._trickle(writer, answer.body, size=1, pause_s=answer.pause_s)
            else:
                writer.write(_response(answer, head))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the tested guard may close early
        finally:
            writer.close()

    async def _trickle(
        self, writer: asyncio.StreamWriter, data: bytes, *, size: int, pause_s: float
    ) -> None:
        self.slow += 1
        try:
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(pause_s)
        finally:
            self.slow -= 1


def _response(answer: Answer, request: str) -> bytes:
    asked = re.search(r"range: bytes=(\d+)-(\d+)", request.lower())
    if not answer.ranges or asked is None:
        return _head(answer) + answer.body
    start, last = int(asked[1]), int(asked[2])
    if start >= len(answer.body):
        return _head(Answer(status="416 Range Not Satisfiable"))
    part = answer.body[start : last + 1]
    headers = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(answer.body)}"}
    return _head(Answer(status="206 Partial Content", headers=headers, body=part)) + part


def _head(answer: Answer) -> bytes:
    headers = dict(answer.headers)
    if answer.promised != -1:
        length = len(answer.body) if answer.promised is None else answer.promised
        headers["Content-Length"] = str(length)
    lines = [f"HTTP/1.1 {answer.status}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@asynccontextmanager
async def upstream(
    *hosts: str, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    """Listen on `hosts` (default: 127.0.0.1), all on one port."""
    server = Upstream()
    listening: list[asyncio.Server] = []
    try:
        for host in hosts or ("127.0.0.1",):
            part = await asyncio.start_server(server.serve, host, server.port or port, ssl=tls)
            server.port = part.sockets[0].getsockname()[1]
            listening.append(part)
        yield server
    finally:
        for part in listening:
            part.close()
            await part.wait_closed()
