"""A TCP proxy to an HTTP server that injects network faults.

The fault of a connection is drawn when it is accepted. A connection that is idle after a response
is closed, so that the next request is drawn again. Bodies are forwarded unchanged.

Units: bytes, seconds. I/O: sockets of loopback.
"""

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

_HEAD_END = b"\r\n\r\n"
_PIECE_BYTES = 16_384
_SLOW_PIECE_BYTES = 8192
_SLOW_S = 0.02
_PATIENCE_S = 30.0
_IDLE_S = 0.1
_ERROR = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>%s</Code><Message>no</Message></Error>"
)


class Fault(StrEnum):
    """Faults of a connection."""

    NONE = "none"
    ERROR_500 = "500"  #: instead of the response
    SLOW_DOWN_503 = "503 SlowDown"
    RESET = "reset"  #: at once
    LOST_ANSWER = "answer lost"  #: the server processed the request, the client gets a reset
    CUT_ANSWER = "answer cut"  #: after some bytes
    CUT_REQUEST = "request cut"
    SLOW = "slow"
    SILENT = "silent"  #: accepted, never answered
    FLIPPED = "byte flipped"  #: in the body of the response


@dataclass(kw_only=True)
class Wire:
    """The proxy and the faults that it injected."""

    to: str  #: host:port
    draws: random.Random
    weights: Mapping[Fault, float] = field(default_factory=dict)  #: the rest is Fault.NONE
    happened: Counter[Fault] = field(default_factory=Counter)
    carried: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0
    calm: bool = False  #: no faults

    def fault(self) -> Fault:
        """Draw the fault of the next connection."""
        chance = self.draws.random()
        for fault, weight in () if self.calm else self.weights.items():
            if (chance := chance - weight) < 0:
                self.happened[fault] += 1
                return fault
        self.happened[Fault.NONE] += 1
        return Fault.NONE

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept a connection."""
        task = asyncio.create_task(self.connected(reader, writer))
        self.carried.add(task)
        task.add_done_callback(self.carried.discard)
        # not in the task: a task that is cancelled before its first step runs no code
        task.add_done_callback(lambda _: writer.close())

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        fault = self.fault()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if fault is Fault.RESET:
                    _reset(writer)
                elif fault in {Fault.ERROR_500, Fault.SLOW_DOWN_503}:
                    await _refused(reader, writer, fault)
                elif fault is Fault.SILENT:
                    while await reader.read(_PIECE_BYTES):
                        pass
                else:
                    await self._carry(reader, writer, fault)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            _reset(writer)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault
    ) -> None:
        host, _, port = self.to.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        activity = _Activity()
        up = asyncio.create_task(self._up(reader, far_writer, writer, fault, activity))
        down = asyncio.create_task(self._down(far_reader, writer, fault, activity))
        try:
            ended: set[asyncio.Task[None]] = set()
            while not ended and not activity.is_idle:
                ended, _ = await asyncio.wait(
                    {up, down}, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            far_writer.close()  # first: the await below may be cancelled
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _up(
        self,
        reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
        near: asyncio.StreamWriter,
        fault: Fault,
        activity: "_Activity",
    ) -> None:
        left = self.draws.randint(1, 2000) if fault is Fault.CUT_REQUEST else None
        while piece := await reader.read(_PIECE_BYTES):
            activity.record(by_server=False)
            if left is not None and (left := left - len(piece)) < 0:
                far.write(piece[:left])
                await far.drain()
                _reset(near)
                return
            far.write(piece)
            await far.drain()
        await asyncio.sleep(_PATIENCE_S)  # the request is complete; wait for the response

    async def _down(
        self,
        far: asyncio.StreamReader,
        near: asyncio.StreamWriter,
        fault: Fault,
        activity: "_Activity",
    ) -> None:
        left = self.draws.randint(1, 3000) if fault is Fault.CUT_ANSWER else None
        in_body = False
        while piece := await far.read(_SLOW_PIECE_BYTES if fault is Fault.SLOW else _PIECE_BYTES):
            if fault is Fault.LOST_ANSWER:
                _reset(near)
                return
            if fault is Fault.SLOW:
                await asyncio.sleep(_SLOW_S)
            if fault is Fault.FLIPPED:
                piece, in_body = _flipped(piece, in_body=in_body)
            if left is not None and (left := left - len(piece)) < 0:
                near.write(piece[:left])
                with contextlib.suppress(OSError):
                    await near.drain()
                return
            near.write(piece)
            await near.drain()
            activity.record(by_server=True)


class _Activity:
    """Which side sent last on a connection, and when."""

    def __init__(self) -> None:
        self._by_server = False
        self._at = time.monotonic()

    def record(self, *, by_server: bool) -> None:
        """Record that one side sent data."""
        self._by_server, self._at = by_server, time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Return whether the connection is idle after a response."""
        return self._by_server and time.monotonic() - self._at > _IDLE_S


@asynccontextmanager
async def flaky(
    to: str, weights: Mapping[Fault, float], *, seed: int, port: int = 0
) -> AsyncIterator[Wire]:
    """Start a proxy to `to` (host:port) on local `port`, or on a free one."""
    wire = Wire(to=to, draws=random.Random(seed), weights=weights)
    server = await asyncio.start_server(wire.accept, "127.0.0.1", port)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in list(wire.carried):
            task.cancel()
        await asyncio.gather(*wire.carried, return_exceptions=True)


async def _refused(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault
) -> None:
    """Return an error response and close the connection."""
    head = await reader.readuntil(_HEAD_END)
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = {name: int(value) for name, _, value in lines if name == b"content-length"}
    await reader.readexactly(length.get(b"content-length", 0))
    code, status = (
        (b"InternalError", b"500 Internal Server Error")
        if fault is Fault.ERROR_500
        else (b"SlowDown", b"503 Service Unavailable")
    )
    body = b"" if head.startswith(b"HEAD") else _ERROR % code
    writer.write(
        b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )
    await writer.drain()


def _flipped(piece: bytes, *, in_body: bool) -> tuple[bytes, bool]:
    """Flip one bit of a response body in `piece`; the header is unchanged."""
    start = 0 if in_body else piece.find(_HEAD_END) + len(_HEAD_END)
    if not in_body and start < len(_HEAD_END):
        return piece, False
    if start >= len(piece):
        return piece, True
    return piece[:start] + bytes([piece[start] ^ 1]) + piece[start + 1 :], True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
