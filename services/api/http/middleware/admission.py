"""Door: who is let in, and what answers while there is nothing behind it.

While PostgreSQL is waited for, health answers for itself and everything else is 503 with
Retry-After: a balancer sees a service that is alive and not ready, never a refused connection.
Afterwards so many requests are worked on at once and no more; one too many is told at once to
come again, and never waits until somebody's patience ends. An answer whose head was sent counts
no more, so followers and slow downloads keep nobody out.
"""

from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.http.problems import RETRY_AFTER_S, problem_response
from shared.http.health import Health, health_app
from shared.telemetry.metrics import REQUEST_SECONDS, REQUESTS_REFUSED_TOTAL, REQUESTS_TOTAL

_HEALTH = frozenset({"/livez", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"  # a path is what a client chose, and no label


class AdmissionControl:
    """An application that is another one as soon as that can be had; `requests_max` at once."""

    def __init__(self, health: Health, *, requests_max: int) -> None:
        self._health = health_app(health)
        self._clock = health.clock
        self._inside: ASGIApp | None = None
        self._requests_max = requests_max
        self.requests = 0  #: that are worked on now

    def open(self, inside: ASGIApp) -> None:
        """From here on `inside` answers everything."""
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await (self._inside or self._health)(scope, receive, send)
        elif self._inside is None:
            await _refuse(scope, receive, send, why="the service starts")
        elif self.requests >= self._requests_max:
            REQUESTS_REFUSED_TOTAL.inc()
            why = f"{self._requests_max} requests are worked on already"
            await _refuse(scope, receive, send, why=why)
        else:
            await self._counted(self._inside, scope, receive, send)

    async def _counted(self, inside: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in; it counts until the head of its answer is sent."""
        is_inside, began = True, self._clock.monotonic()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value  # what breaks off before it is told

        def leave() -> None:
            nonlocal is_inside
            if is_inside:
                self.requests -= 1
                _measure(scope, status, self._clock.monotonic() - began)
            is_inside = False

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                leave()
            await send(message)

        self.requests += 1
        try:
            await inside(scope, receive, answer)
        finally:
            leave()


def _measure(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", _NO_ROUTE)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS_TOTAL.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)


async def _refuse(scope: Scope, receive: Receive, send: Send, *, why: str) -> None:
    refused = problem_response(
        Request(scope),
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{why}; try again in {RETRY_AFTER_S} s",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
    await refused(scope, receive, send)
