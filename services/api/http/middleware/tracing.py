"""Records a span and a log record for every request, in the caller's trace.

The caller's `traceparent` is stored in the outbox whether tracing is on or off. A span has the
route and never the path, because paths contain signed tokens. Health routes are not traced.
"""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.telemetry import trace
from shared.telemetry.log import Logger, bind
from shared.telemetry.trace import Service

_QUIET = frozenset({"/livez", "/readyz", "/metrics"})


def bind_job(job_id: str) -> None:
    """Add the job id to the log records and the span of the current request."""
    bind(job_id=job_id)
    trace.set_attributes({"segue.job_id": job_id})


class TracingMiddleware:
    """ASGI middleware that traces requests."""

    def __init__(self, app: ASGIApp, *, log: Logger, service: Service) -> None:
        """`service`: set per request, because each runs in an empty context."""
        self._app = app
        self._log = log
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace one request."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        trace.set_service(self._service.name, topic_prefix=self._service.topic_prefix)
        headers, method = Headers(scope=scope), scope["method"]
        caller = trace.extract(headers.get("traceparent"), headers.get("tracestate"))
        started_s, status = asyncio.get_running_loop().time(), 0

        async def send_traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        attributes = {"http.request.method": method, "url.scheme": scope.get("scheme")}
        with trace.continue_trace(caller, method, attributes, kind="server") as span:
            await self._app(scope, receive, send_traced)
            route = getattr(scope.get("route"), "path", None)
            if job_id := scope.get("path_params", {}).get("job_id"):
                bind_job(job_id)
            span.update_name(f"{method} {route}" if route else method)
            trace.set_attributes({"http.route": route, "http.response.status_code": status}, span)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                trace.record_error(str(status), span)
            seconds = round(asyncio.get_running_loop().time() - started_s, 4)
            self._log.debug(
                "request completed",
                action="request.completed",
                method=method,
                route=route,
                status=status,
                seconds=seconds,
            )
