"""Door: what answers on the api's port before there is anything behind it.

While PostgreSQL is waited for, health answers for itself and everything else is 503 with
Retry-After: a balancer sees a service that is alive and not ready, never a refused connection.
"""

from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.problems import RETRY_AFTER_S, problem_response
from shared.health import Health, health_app

_HEALTH = frozenset({"/livez", "/readyz", "/metrics"})


class Door:
    """An application that is another one as soon as that can be had."""

    def __init__(self, health: Health) -> None:
        self._health = health_app(health)
        self._inside: ASGIApp | None = None

    def open(self, inside: ASGIApp) -> None:
        """From here on `inside` answers everything."""
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._inside is not None:
            await self._inside(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] not in _HEALTH:
            refused = problem_response(
                Request(scope),
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the service starts; try again in {RETRY_AFTER_S} s",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            await refused(scope, receive, send)
        else:
            await self._health(scope, receive, send)
