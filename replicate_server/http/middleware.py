"""Wraps every endpoint of the emulator with availability, faults, authentication and rate limits.

In this order: availability, a fault that replaces the response, token, rate limit, the endpoint,
a fault that changes the response.

I/O: HTTP. Units: seconds.
"""

from collections.abc import Awaitable, Callable
from hmac import compare_digest

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from replicate_server.faults import OF_ANSWERS, Fault, FaultKind
from replicate_server.http import responses
from replicate_server.http.server import (
    Connections,
    DroppedResponse,
    TruncatedResponse,
    wait_for_disconnect,
)
from replicate_server.state import State

Handler = Callable[[Request], Awaitable[Response]]
MARK = "x-fake-replicate"  #: header of every response


class EmulatorMiddleware:
    """Wraps endpoints."""

    def __init__(self, state: State, connections: Connections) -> None:
        self._state = state
        self._connections = connections

    def wrap(self, place: str, handler: Handler) -> Handler:
        """Return `handler` wrapped as the endpoint `place`."""

        async def endpoint(request: Request) -> Response:
            self._state.sweep()
            response = await self._respond(place, handler, request)
            has_none = isinstance(response, DroppedResponse | _HangingResponse)
            self._state.requests[place, 0 if has_none else response.status_code] += 1
            return response

        return endpoint

    async def _respond(self, place: str, handler: Handler, request: Request) -> Response:
        state = self._state
        now_s = state.time.monotonic()
        if now_s < state.down_until_s:
            return DroppedResponse(self._connections)
        if now_s < state.unavailable_until_s:
            return responses.unavailable()
        fault = state.faults.take(OF_ANSWERS, place=place)
        if fault is not None and (replacement := self._replacement(fault)) is not None:
            return replacement
        response = self._reject(place, request) or await handler(request)
        if place != "delivery" and response.status_code < 400:  # noqa: PLR2004 - HTTP errors
            bucket = state.creations if place == "create" else state.others
            response.headers.update(bucket.headers)
        return response if fault is None else self._changed(fault, response)

    def _reject(self, place: str, request: Request) -> Response | None:
        """Return the response to an unauthenticated or throttled request; None otherwise."""
        state = self._state
        if place == "delivery":
            return None
        if state.is_revoked or not _has_token(request, state.settings.token):
            return responses.unauthenticated()
        bucket = state.creations if place == "create" else state.others
        wait_s = bucket.take(state.time.monotonic())
        if wait_s is None:
            return None
        return responses.throttled(wait_s, with_header=state.settings.retry_after_header)

    def _replacement(self, fault: Fault) -> Response | None:
        """Return the response of a fault that skips the endpoint; None otherwise."""
        match fault.kind:
            case FaultKind.ERROR_BEFORE:
                return responses.server_error()
            case FaultKind.DROPPED:
                return DroppedResponse(self._connections)
            case FaultKind.THROTTLED:
                with_header = self._state.settings.retry_after_header
                return responses.throttled(fault.seconds, with_header=with_header)
            case FaultKind.NOT_FOUND:
                return responses.not_found()
            case _:
                return None

    def _changed(self, fault: Fault, response: Response) -> Response:
        """Return the response changed by a fault."""
        changed: dict[FaultKind, Callable[[], Response]] = {
            FaultKind.ERROR_AFTER: responses.server_error,
            FaultKind.LOST_ANSWER: lambda: DroppedResponse(self._connections),
            FaultKind.WRONG_JSON: responses.invalid_json,
            FaultKind.TRUNCATED: lambda: TruncatedResponse(response, self._connections),
            FaultKind.HANG: lambda: _HangingResponse(fault.seconds, self._connections),
            FaultKind.SLOW: lambda: _DelayedResponse(response, fault.seconds),
        }
        return changed[fault.kind]()


class HeaderMiddleware:
    """Adds the header that marks a response as not from the real Replicate."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request and add the header to the response."""

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (MARK.encode(), b"1")]
            await send(message)

        await self._app(scope, receive, send_marked)


class _HangingResponse(Response):
    """No response while the client waits."""

    def __init__(self, wait_s_max: float, connections: Connections) -> None:
        super().__init__()
        self._wait_s_max = wait_s_max
        self._connections = connections

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await wait_for_disconnect(receive, within_s=self._wait_s_max)
        await DroppedResponse(self._connections)(scope, receive, send)


class _DelayedResponse(Response):
    """Another response, late."""

    def __init__(self, response: Response, wait_s: float) -> None:
        super().__init__(status_code=response.status_code)
        self._response = response
        self._wait_s = wait_s

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await wait_for_disconnect(receive, within_s=self._wait_s)
        await self._response(scope, receive, send)


def _has_token(request: Request, token: str) -> bool:
    """Return whether a request has the token, with either scheme."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    return scheme in {"Bearer", "Token"} and compare_digest(presented.encode(), token.encode())
