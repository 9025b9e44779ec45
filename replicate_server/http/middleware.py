"""EmulatorMiddleware: what every request passes before and after it is handled.

In this order: is the service up; does the script strike; is the token good; is there room under
the rate limit; then the work; then what the script does to the answer.

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
MARK = "x-fake-replicate"  #: the header of every answer


class EmulatorMiddleware:
    """Wraps handlers."""

    def __init__(self, state: State, connections: Connections) -> None:
        self._state = state
        self._connections = connections

    def at(self, place: str, handler: Handler) -> Handler:
        """`handler`, behind the gate, as the answer at `place`."""

        async def answer(request: Request) -> Response:
            self._state.sweep()
            given = await self._answer(place, handler, request)
            silent = isinstance(given, DroppedResponse | _HangingResponse)
            self._state.requests[place, 0 if silent else given.status_code] += 1
            return given

        return answer

    async def _answer(self, place: str, handler: Handler, request: Request) -> Response:
        state = self._state
        now_s = state.time.monotonic()
        if now_s < state.down_until_s:
            return DroppedResponse(self._connections)
        if now_s < state.unavailable_until_s:
            return responses.unavailable()
        fault = state.faults.take(OF_ANSWERS, place=place)
        if fault is not None and (instead := self._instead(fault)) is not None:
            return instead
        given = self._not_allowed(place, request) or await handler(request)
        if place != "delivery" and given.status_code < 400:  # noqa: PLR2004 - HTTP's own line
            bucket = state.creations if place == "create" else state.others
            given.headers.update(bucket.headers)
        return given if fault is None else self._struck(fault, given)

    def _not_allowed(self, place: str, request: Request) -> Response | None:
        """The refusal that is due before anything is looked at; None: come in."""
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

    def _instead(self, fault: Fault) -> Response | None:
        """The answer for which nothing is done; None: it is done."""
        match fault.kind:
            case FaultKind.ERROR_BEFORE:
                return responses.broken()
            case FaultKind.DROPPED:
                return DroppedResponse(self._connections)
            case FaultKind.THROTTLED:
                with_header = self._state.settings.retry_after_header
                return responses.throttled(fault.seconds, with_header=with_header)
            case FaultKind.NOT_FOUND:
                return responses.not_found()
            case _:
                return None

    def _struck(self, fault: Fault, given: Response) -> Response:
        """What becomes of the answer when everything is done."""
        becomes: dict[FaultKind, Callable[[], Response]] = {
            FaultKind.ERROR_AFTER: responses.broken,
            FaultKind.LOST_ANSWER: lambda: DroppedResponse(self._connections),
            FaultKind.WRONG_JSON: responses.garbled,
            FaultKind.TRUNCATED: lambda: TruncatedResponse(given, self._connections),
            FaultKind.HANG: lambda: _HangingResponse(fault.seconds, self._connections),
            FaultKind.SLOW: lambda: _DelayedResponse(given, fault.seconds),
        }
        return becomes[fault.kind]()


class HeaderMiddleware:
    """Says on every answer that this is not the real one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and mark what comes back."""

        async def marking(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (MARK.encode(), b"1")]
            await send(message)

        await self._app(scope, receive, marking)


class _HangingResponse(Response):
    """No answer for as long as anybody waits for one."""

    def __init__(self, most_s: float, connections: Connections) -> None:
        super().__init__()
        self._most_s = most_s
        self._connections = connections

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await wait_for_disconnect(receive, within_s=self._most_s)
        await DroppedResponse(self._connections)(scope, receive, send)


class _DelayedResponse(Response):
    """Another answer, late."""

    def __init__(self, given: Response, wait_s: float) -> None:
        super().__init__(status_code=given.status_code)
        self._given = given
        self._wait_s = wait_s

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await wait_for_disconnect(receive, within_s=self._wait_s)
        await self._given(scope, receive, send)


def _has_token(request: Request, token: str) -> bool:
    """Whether a request carries the token, in either of the two ways."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme in {"Bearer", "Token"} and compare_digest(given.encode(), token.encode())
