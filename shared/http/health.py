"""Health: what a service says of itself on a port of its own, and the start that waits.

A service waits for its servers at start, within one deadline and saying for which; meanwhile
`livez` answers. `readyz` names every server and how much is under way, `metrics` has the
figures for Prometheus. The port is off unless `SEGUE_HEALTH_PORT` is set: several services may
share a machine.

I/O: a listening socket, and whatever the probes ask.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.clock import Clock
from shared.errors import RetryableError, SegueError
from shared.http.metrics_endpoint import scraped
from shared.http.probes import Check, Probe, Ready, readiness
from shared.http.server import HttpServer, listen
from shared.settings import HealthSettings
from shared.telemetry import service_version
from shared.telemetry.log import Logger
from shared.telemetry.metrics import BUILD_INFO

AGAIN_S = 1.0  # between two tries to reach a server
HTTP_STOP_S = 1


@dataclass(kw_only=True)
class Health:
    """Of one service."""

    service: str
    start_s: float  #: how long the start may wait for servers, all of them together
    stop: asyncio.Event
    ready: asyncio.Event
    clock: Clock
    log: Logger
    probes: list[Probe] = field(default_factory=list)
    figures: Callable[[], Mapping[str, int]] = dict
    _waits_for: str | None = None

    def __post_init__(self) -> None:
        """The time for the start runs from here."""
        self._until = self.clock.monotonic() + self.start_s
        BUILD_INFO.labels(self.service, service_version()).set(1)

    async def wait_for(self, server: str, call: Callable[[], Awaitable[object]]) -> bool:
        """Call until it succeeds; False: the service is to stop.

        Raises:
            SegueError: the time for the start is over.
        """
        self._waits_for = f"waits for {server}"
        while not self.stop.is_set():
            try:
                reached = await self._unless_stopped(call)
            except (RetryableError, TimeoutError) as error:
                reason = str(error) or "no answer"
                self._waits_for = f"waits for {server}: {reason}"
                self.log.warning(
                    "waits for a server", action="service.waiting", server=server, reason=reason
                )
                if self._left_s <= AGAIN_S:
                    raise SegueError(
                        f"{server} was not there within {self.start_s:g} s"
                        f" (SEGUE_START_DEADLINE_S): {reason}"
                    ) from error
                await self._pause()
            else:
                self._waits_for = None
                return reached
        return False

    async def readiness(self) -> Ready:
        """Every check, and what is under way."""
        known = {"service": self._standing()}
        return await readiness(self.probes, known=known, figures=self.figures())

    @asynccontextmanager
    async def serve(self, settings: HealthSettings) -> AsyncIterator[None]:
        """Answer on the health port, where there is one.

        Raises:
            SettingsError: the port cannot be had.
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

    def _standing(self) -> Check:
        if self.stop.is_set():
            return Check(ok=False, detail="stops")
        if self._waits_for is not None:
            return Check(ok=False, detail=self._waits_for)
        works = self.ready.is_set()
        return Check(ok=works, detail="works" if works else "starts")

    @property
    def _left_s(self) -> float:
        return self._until - self.clock.monotonic()

    async def _unless_stopped(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Whether `call` came to its end before the service was told to stop."""
        task = asyncio.ensure_future(call())
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            left_s = max(self._left_s, 0.0)
            ends = {task, stopped}
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            if stopped.done():
                return False
            raise TimeoutError
        finally:
            stopped.cancel()
            task.cancel()  # nothing happens where it ended
            await asyncio.wait({task})

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(AGAIN_S):
                await self.stop.wait()
        except TimeoutError:
            return


def health_app(health: Health) -> Starlette:
    """The application that answers for `health`."""

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_request: Request) -> Response:
        told = await health.readiness()
        status = HTTPStatus.OK if told.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(told.model_dump(), status_code=status)

    async def metrics(_request: Request) -> Response:
        return await scraped(health.service, health.probes)

    return Starlette(
        routes=[
            Route("/livez", alive),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )
