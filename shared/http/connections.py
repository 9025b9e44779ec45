"""Limits on HTTP connections: their number, and the time that each may wait.

uvicorn closes an idle connection, but waits without end for a request head, for the rest of a body
after its response, and for a client that does not read. `LimitedProtocol` closes these. At the
limit of connections, the one that has waited longest for a request makes room for a new one, so
slow clients cannot lock out others. Measurements and alternatives: ADR-0026.

Units: seconds, bytes. I/O: the connections of a server.
"""

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from typing import ClassVar

import h11
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from shared.telemetry.metrics import CONNECTIONS_CLOSED_TOTAL

CLIENT_SHARE = 0.75  # of the connections, for one client
NO_SNIFF = ("X-Content-Type-Options", "nosniff")
_IPV6_SUBNET = 64  # bits: one client has at least this many addresses


@dataclass(eq=False)
class _Group:
    """The connections of a server, or of one client."""

    count: int = 0
    #: those that wait for a request, the longest wait first
    waiting: "dict[LimitedProtocol, None]" = field(default_factory=dict)


@dataclass(eq=False)
class ConnectionTable:
    """The connections of a server; every operation takes constant time."""

    connections_max: int
    _all: _Group = field(default_factory=_Group)
    _of_client: dict[str, _Group] = field(default_factory=dict)

    def add(self, connection: "LimitedProtocol", client: str) -> "LimitedProtocol | None":
        """Add a connection; return the one to close, if there are too many now."""
        own = self._of_client.setdefault(client, _Group())
        for group in (own, self._all):
            group.count += 1
            group.waiting[connection] = None
        for group, count_max in (
            (own, max(1, int(self.connections_max * CLIENT_SHARE))),
            (self._all, self.connections_max),
        ):
            if group.count > count_max:
                return next(iter(group.waiting))  # at worst the new one itself
        return None

    def remove(self, connection: "LimitedProtocol", client: str) -> None:
        """Remove a closed connection."""
        self.set_waiting(connection, client, is_waiting=False)
        for group in (self._of_client[client], self._all):
            group.count -= 1
        if not self._of_client[client].count:
            del self._of_client[client]

    def set_waiting(self, connection: "LimitedProtocol", client: str, *, is_waiting: bool) -> None:
        """Record whether a connection waits for a request."""
        for group in (self._of_client[client], self._all):
            if not is_waiting:
                group.waiting.pop(connection, None)
            elif connection not in group.waiting:
                group.waiting[connection] = None


class LimitedProtocol(H11Protocol):
    """An HTTP/1.1 connection with deadlines; `limited_protocol` returns the class of a server."""

    table: ClassVar[ConnectionTable]
    #: for a request head, from the connection or its first byte
    head_s: ClassVar[float] = 10.0
    #: for the rest of a body that was not read, after the response
    rest_s: ClassVar[float] = 5.0
    #: for a client to read what is buffered
    write_s: ClassVar[float] = 60.0
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None before the first request
    _peer: str | None = None  #: None: not in the table
    _timer: asyncio.TimerHandle | None = None
    _timer_reason: str | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Return whether the connection waits for a request."""
        return self.conn.their_state is h11.IDLE

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = _client_of(self.client[0] if self.client else "")
        self._set_timer("head", self.head_s)
        if (closed := self.table.add(self, self._peer)) is not None:
            closed.abort("limit")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_table()
        self._set_timer(None)
        self.resume_writing()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_s, self.abort, "write")

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    @override
    def send_400_response(self, msg: str) -> None:
        phrase = HTTPStatus.BAD_REQUEST.phrase.encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"), NO_SNIFF]
        events = [
            h11.Response(status_code=HTTPStatus.BAD_REQUEST, headers=headers, reason=phrase),
            h11.Data(data=msg.encode("ascii")),
            h11.EndOfMessage(),
        ]
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _update_timer(self) -> None:
        """Set the deadline for what the connection waits for now."""
        has_responded = self.cycle is None or self.cycle.response_complete
        if self._peer is not None:
            self.table.set_waiting(self, self._peer, is_waiting=self.is_waiting)
        if self.transport.is_closing() and has_responded:
            self._set_timer("write", self.write_s)
        elif self.is_waiting:
            is_head = self.cycle is None or bool(self.conn.trailing_data[0])
            self._set_timer("head" if is_head else None, self.head_s)
        elif has_responded:
            self._set_timer("rest", self.rest_s)
        else:
            self._set_timer(None)

    def _set_timer(self, reason: str | None, seconds: float = 0.0) -> None:
        """Close the connection after `seconds`; an equal deadline that is set already stays."""
        if reason == self._timer_reason:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_reason = reason
        self._timer = None if reason is None else self.loop.call_later(seconds, self.abort, reason)

    def _leave_table(self) -> None:
        if self._peer is not None:
            self.table.remove(self, self._peer)
            self._peer = None

    def abort(self, reason: str) -> None:
        """Close the connection at once."""
        CONNECTIONS_CLOSED_TOTAL.labels(reason).inc()
        self._leave_table()
        self.transport.abort()


def limited_protocol(connections_max: int, **deadlines: float) -> type[LimitedProtocol]:
    """Return the protocol of a server with at most `connections_max` connections.

    `deadlines`: other values of `head_s`, `rest_s` and `write_s`.
    """
    members = {"table": ConnectionTable(connections_max), **deadlines}
    return type("ServerProtocol", (LimitedProtocol,), members)


class UnambiguousRequests:
    """ASGI application that rejects a request with two lengths, and closes its connection.

    A proxy that reads the other length than this server would see another request (smuggling).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            is_old = scope.get("http_version") == "1.0"
            if "transfer-encoding" in headers and (is_old or "content-length" in headers):
                message = "send either Content-Length or Transfer-Encoding: chunked (HTTP/1.1)"
                response = PlainTextResponse(
                    message, status_code=HTTPStatus.BAD_REQUEST, headers={"Connection": "close"}
                )
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _client_of(host: str) -> str:
    """Return what identifies the client of a connection: an address, or a network of IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, _IPV6_SUBNET), strict=False))
