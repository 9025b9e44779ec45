"""Health endpoints of a service, and a start that waits for its servers.

A service waits for its servers at start, within one deadline, and logs which one is missing;
meanwhile `livez` answers. `readyz` reports every server and the current workload, `metrics` serves
Prometheus. The port is closed unless `SEGUE_HEALTH_PORT` is set: several services may share a
machine.

I/O: a listening socket, and whatever the probes call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.clock import Clock
from shared.errors import RetryableError, SegueError
from shared.http.probes import Check, Probe, Ready, readiness
from shared.http.server import HttpServer, listen
from shared.processing.wait import completes_first, wait_or_stop
from shared.settings import HealthSettings
from shared.telemetry import service_version
from shared.telemetry.log import Logger
from shared.telemetry.metrics import BUILD_INFO, SERVER_UP

RETRY_S = 1.0  # between two attempts to reach a server
HTTP_STOP_S = 1


@dataclass(kw_only=True)
class Health:
    """State and checks of one service."""

    service: str
    start_s: float  #: how long the start may wait for all servers together
    stop: asyncio.Event
    ready: asyncio.Event
    clock: Clock
    log: Logger
    probes: list[Probe] = field(default_factory=list)
    figures: Callable[[], Mapping[str, int]] = dict
    _waiting: str | None = None

    def __post_init__(self) -> None:
        """Start the deadline of the start."""
        self._until = self.clock.monotonic() + self.start_s
        BUILD_INFO.labels(self.service, service_version()).set(1)

    async def wait_for(self, server: str, call: Callable[[], Awaitable[object]]) -> bool:
        """Retry `call` until it succeeds; return False if the service is to stop.

        Raises:
            SegueError: the deadline of the start passed.
        """
        self._waiting = f"waiting for {server}"
        while not self.stop.is_set():
            try:
                reached = await self._unless_stopped(call)
            except (RetryableError, TimeoutError) as error:
                reason = str(error) or "no answer"
                self._waiting = f"waiting for {server}: {reason}"
                self.log.warning(
                    "waiting for a server", action="service.waiting", server=server, reason=reason
                )
                if self._left_s <= RETRY_S:
                    raise SegueError(
                        f"{server} unavailable for {self.start_s:g} s"
                        f" (SEGUE_START_DEADLINE_S): {reason}"
                    ) from error
                await wait_or_stop(self.stop, RETRY_S)
            else:
                self._waiting = None
                return reached
        return False

    async def readiness(self) -> Ready:
        """Return every check and the current workload."""
        known = {"service": self._service_check()}
        return await readiness(self.probes, known=known, figures=self.figures())

    @asynccontextmanager
    async def serve(self, settings: HealthSettings) -> AsyncIterator[None]:
        """Serve the health port while the block runs, if one is set.

        Raises:
            SettingsError: the port is not available.
        """
        if settings.port is None:
            yield
            return
        listening = listen(settings.host, settings.port, setting="SEGUE_HEALTH_PORT")
        server = HttpServer(health_app(self), listening, stop_s=HTTP_STOP_S)
        await server.start()
        self.log.info("health port opened", action="health_port.opened", port=server.port)
        try:
            yield
        finally:
            await server.stop()

    def _service_check(self) -> Check:
        if self.stop.is_set():
            return Check(ok=False, detail="stopping")
        if self._waiting is not None:
            return Check(ok=False, detail=self._waiting)
        is_running = self.ready.is_set()
        return Check(ok=is_running, detail="running" if is_running else "starting")

    @property
    def _left_s(self) -> float:
        return self._until - self.clock.monotonic()

    async def _unless_stopped(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Run `call` within the time left; return False if the service stops before it ends."""
        task = asyncio.ensure_future(call())
        async with asyncio.timeout(max(self._left_s, 0.0)):
            if not await completes_first(task, self.stop.wait()):
                return False
        task.result()
        return True


def health_app(health: Health) -> Starlette:
    """Return the application that serves `livez`, `readyz` and `metrics`."""

    async def livez(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: Request) -> Response:
        result = await health.readiness()
        status = HTTPStatus.OK if result.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(result.model_dump(), status_code=status)

    async def metrics(_request: Request) -> Response:
        return await metrics_response(health.service, health.probes)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ]
    )


async def metrics_response(service: str, probes: Sequence[Probe]) -> Response:
    """Return every metric of this process, with the state of its servers."""
    problems = await asyncio.gather(*(probe.problem() for probe in probes))
    for probe, problem in zip(probes, problems, strict=True):
        SERVER_UP.labels(service, probe.name).set(problem is None)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
