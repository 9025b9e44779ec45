"""Serving: the fake on a real socket of 127.0.0.1, with connections that can be made to die.

I/O: a listening socket.
"""

import asyncio
import contextlib
import socket

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedded.servers.process import ServerStartError
from shared.http.server import HttpServer, bound

_STOP_S = 5
Lines = dict[tuple[str, int], asyncio.Transport]  #: open connections by the client's address


class Serving:
    """One HTTP server in the loop that runs already."""

    def __init__(self) -> None:
        self.lines: Lines = {}
        self._server: HttpServer | None = None
        self._socket: socket.socket | None = None

    def bind(self, port: int) -> str:
        """Take a port, 0 for any; the origin of what will be served.

        Raises:
            ServerStartError: somebody else has it.
        """
        try:
            self._socket = bound("127.0.0.1", port)
        except OSError as error:
            raise ServerStartError(f"fake Replicate: port {port}: {error.strerror}") from error
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def start(self, app: ASGIApp) -> None:
        """Serve from here on."""
        assert self._socket is not None, "bound first"
        self._server = HttpServer(
            app,
            self._socket,
            stop_s=_STOP_S,
            http=_protocol(self.lines),
            ws="none",
            timeout_keep_alive=60,
        )
        await self._server.start()

    async def stop(self) -> None:
        """Close every connection and the socket."""
        if self._server is not None:
            self._server.end()
            for line in list(self.lines.values()):
                line.abort()
            await self._server.stop()
        elif self._socket is not None:
            self._socket.close()


class Dropped(Response):
    """No answer: the connection dies."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = self._lines.get(tuple(scope["client"]))
        if line is not None:
            line.abort()
        await client_left(receive)


class Truncated(Response):
    """The head of another answer and half of its body; then the connection dies."""

    def __init__(self, whole: Response, lines: Lines) -> None:
        super().__init__(bytes(whole.body), whole.status_code, dict(whole.headers))
        self._lines = lines

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        line = self._lines.get(tuple(scope["client"]))
        if line is not None:
            line.close()  # what was written goes out first
        await client_left(receive)


async def client_left(receive: Receive, *, within_s: float | None = None) -> None:
    """Wait until nobody is at the other end any more, `within_s` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass


def _protocol(lines: Lines) -> type[H11Protocol]:
    """Uvicorn's own protocol, which keeps the book of open connections."""

    class Line(H11Protocol):
        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is not None:
                lines[self.client] = transport

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.client is not None:
                lines.pop(self.client, None)

    return Line
