"""Serves the emulator on 127.0.0.1, with connections that can be aborted.

I/O: a listening socket.
"""

import asyncio
import contextlib
import socket

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import ServerStartError
from shared.http.server import HttpServer, bind_socket

_STOP_S = 5
Connections = dict[tuple[str, int], asyncio.Transport]  #: open connections by the client's address


class LoopbackServer:
    """An HTTP server in the running event loop."""

    def __init__(self) -> None:
        self.connections: Connections = {}
        self._server: HttpServer | None = None
        self._socket: socket.socket | None = None

    def bind(self, port: int) -> str:
        """Bind a port, 0 for a free one; return the origin.

        Raises:
            ServerStartError: the port is in use.
        """
        try:
            self._socket = bind_socket("127.0.0.1", port)
        except OSError as error:
            raise ServerStartError(f"Replicate emulator: port {port}: {error.strerror}") from error
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def start(self, app: ASGIApp) -> None:
        """Start to serve."""
        assert self._socket is not None, "bind() comes first"
        self._server = HttpServer(
            app,
            self._socket,
            stop_s=_STOP_S,
            http=_protocol(self.connections),
            timeout_keep_alive=60,
        )
        await self._server.start()

    async def stop(self) -> None:
        """Close every connection and the socket."""
        if self._server is not None:
            self._server.request_stop()
            for transport in list(self.connections.values()):
                transport.abort()
            await self._server.stop()
        elif self._socket is not None:
            self._socket.close()


class DroppedResponse(Response):
    """No response: aborts the connection."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = self._connections.get(tuple(scope["client"]))
        if transport is not None:
            transport.abort()
        await wait_for_disconnect(receive)


class TruncatedResponse(Response):
    """Headers and half of the body of another response; then closes the connection."""

    def __init__(self, response: Response, connections: Connections) -> None:
        super().__init__(bytes(response.body), response.status_code, dict(response.headers))
        self._connections = connections

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport = self._connections.get(tuple(scope["client"]))
        if transport is not None:
            transport.close()  # sends what is written first
        await wait_for_disconnect(receive)


async def wait_for_disconnect(receive: Receive, *, within_s: float | None = None) -> None:
    """Wait until the client disconnects, at most `within_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass


def _protocol(connections: Connections) -> type[H11Protocol]:
    """Return uvicorn's protocol with a record of the open connections."""

    class TrackedProtocol(H11Protocol):
        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is not None:
                connections[self.client] = transport

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.client is not None:
                connections.pop(self.client, None)

    return TrackedProtocol
