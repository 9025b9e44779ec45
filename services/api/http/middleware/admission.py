"""Admission control: 503 until the api is ready, and a limit on concurrent requests.

While the api waits for PostgreSQL, only the health routes respond and everything else is 503 with
Retry-After: a load balancer sees a service that is alive and not ready, never a refused
connection. Afterwards at most `requests_max` requests are processed at a time; one more is
rejected with 503 at once instead of being queued. A request counts until its response headers are
sent, and not while it waits for its client, so event streams, slow downloads and slow bodies do not
count.
"""

from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.http.problems import RETRY_AFTER_S, ProblemError, problem_response
from shared.http.health import Health, health_app
from shared.telemetry.metrics import REQUEST_SECONDS, REQUESTS_REFUSED_TOTAL, REQUESTS_TOTAL

_HEALTH = frozenset({"/livez", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
_NO_ROUTE = "none"  # a path is chosen by the client, so it is no label


class AdmissionControl:
    """ASGI application that rejects requests until `open`, and above `requests_max`."""

    def __init__(self, health: Health, *, requests_max: int) -> None:
        self._health = health_app(health)
        self._clock = health.clock
        self._app: ASGIApp | None = None
        self._requests_max = requests_max
        self.requests = 0  #: in progress

    def open(self, app: ASGIApp) -> None:
        """Forward requests to `app` from now on."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await (self._app or self._health)(scope, receive, send)
        elif self._app is None:
            await _refuse(scope, receive, send, reason="the service is starting")
        elif self.requests >= self._requests_max:
            REQUESTS_REFUSED_TOTAL.inc()
            await _refuse(scope, receive, send, reason=self._too_many)
        else:
            await self._counted(self._app, scope, receive, send)

    @property
    def _too_many(self) -> str:
        return f"too many concurrent requests (at most {self._requests_max})"

    def _check_limit(self) -> None:
        """Raise if others took the places while a request waited for its body.

        Raises:
            ProblemError: there are too many requests (503).
        """
        if self.requests > self._requests_max:
            REQUESTS_REFUSED_TOTAL.inc()
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, _retry(self._too_many), headers=_RETRY_AFTER
            )

    async def _counted(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request; it counts until its response headers are sent."""
        is_counted, is_waiting, started = True, False, self._clock.monotonic()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value  # if it fails before the headers are sent

        def finish() -> None:
            nonlocal is_counted
            if is_counted:
                self.requests -= not is_waiting
                _measure(scope, status, self._clock.monotonic() - started)
            is_counted = False

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                finish()
            await send(message)

        async def receive_counted() -> Message:
            nonlocal is_waiting
            if not is_counted or is_waiting:
                return await receive()
            self.requests, is_waiting = self.requests - 1, True
            try:
                message = await receive()
            finally:
                self.requests, is_waiting = self.requests + is_counted, False
            if message["type"] == "http.request" and not message.get("more_body"):
                self._check_limit()
            return message

        self.requests += 1
        try:
            await app(scope, receive_counted, send_counted)
        finally:
            finish()


def _measure(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", _NO_ROUTE)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS_TOTAL.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)


def _retry(reason: str) -> str:
    return f"{reason}; retry in {RETRY_AFTER_S} s"


async def _refuse(scope: Scope, receive: Receive, send: Send, *, reason: str) -> None:
    response = problem_response(
        Request(scope),
        HTTPStatus.SERVICE_UNAVAILABLE,
        _retry(reason),
        headers=_RETRY_AFTER,
    )
    await response(scope, receive, send)
