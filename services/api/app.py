"""App: the api service, wired, served, and taken down in order.

The HTTP edge stands as soon as PostgreSQL does; relay and projection wait for Kafka beside it,
so requests are accepted while it is away.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from services.api.applying import Applier
from services.api.edge import Edge, SegmentPaths
from services.api.notices import Notices
from services.api.outbox import Relay
from services.api.probing import Probe, ask_kafka
from services.api.projector import Projector, pause
from services.api.repository import Database
from services.api.repository.schema import migrate
from services.api.resuming import resume, resume_in_new_epoch
from services.api.settings import ApiSettings
from services.api.web import create_app
from shared.clock import Clock, SystemClock
from shared.errors import RetryableError, SegueError, SettingsError
from shared.segment_links import SegmentLinks
from shared.storage import ObjectStore
from shared.storage.opening import open_store
from shared.telemetry.log import Logger, logger_of

AGAIN_S = 1.0
BACKLOG = 2048
HTTP_STOP_S = 3  # for answers under way; the streams of followers end by themselves
WORK_STOP_S = 4.0  # for the batch under way, and leaving the group


async def run(
    settings: ApiSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until `stop`; the one way up, for `__main__`, the embedded stack and the tests.

    Raises:
        SegueError: it could not start, or had to stop.
    """
    clock = clock or SystemClock()
    log = logger_of("api")
    log.info("api starts", action="service.starting", host=settings.host, port=settings.port)
    async with _parts(settings, stop=stop, clock=clock, log=log) as edge:
        if stop.is_set():
            return
        listening = _listen(settings)
        await resume_in_new_epoch(edge.database, settings.kafka.epoch, clock=clock, log=log)
        server = _Server(_uvicorn(create_app(edge)))
        await _serve(server, listening, edge, ready=ready)


async def _serve(
    server: "_Server", listening: socket.socket, edge: Edge, *, ready: asyncio.Event | None
) -> None:
    """Run the edge and everything beside it; when one ends, all do."""
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    work = [asyncio.create_task(coroutine) for coroutine in _work(edge)]
    stopped = asyncio.create_task(edge.stop.wait())
    try:
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait({up, serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        edge.log.info("api is ready", action="service.ready", port=listening.getsockname()[1])
        if ready is not None:
            ready.set()
        await asyncio.wait({serving, stopped, *work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # 1. no new requests, answers under way are finished; followers hear the end
        edge.log.info("api stops", action="service.stopping")
        edge.stop.set()
        server.should_exit = True
        # 2. projection, relay and listening finish their batch and leave
        await _ended({serving, stopped, *work})
    for task in (serving, *work):
        task.result()  # a fault that ended everything is told to whoever runs us


def _work(edge: Edge) -> list[Coroutine[Any, Any, None]]:
    """What runs beside the HTTP edge."""
    settings, clock, log = edge.settings, edge.clock, edge.log

    async def log_is_new() -> None:
        await resume(edge.database, clock=clock, log=log)

    projector = Projector(
        database=edge.database,
        applier=Applier(database=edge.database, settings=settings, clock=clock, log=log),
        settings=settings,
        log_is_new=log_is_new,
        log=log,
    )
    relay = Relay(edge.database, settings.kafka, clock=clock, log=log)
    return [projector.run(edge.stop), relay.run(edge.stop), edge.notices.run(edge.stop)]


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait for `tasks`, then cancel what did not come to its end."""
    _, late = await asyncio.wait(tasks, timeout=HTTP_STOP_S + WORK_STOP_S)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=1.0)


async def _prepared(store: ObjectStore, *, log: Logger) -> None:
    """The bucket is there; a store that is away is waited for by whoever needs it."""
    try:
        await store.prepare()
    except RetryableError as error:
        log.warning("store is away", action="store.retried", reason=str(error))


@asynccontextmanager
async def _parts(
    settings: ApiSettings, *, stop: asyncio.Event, clock: Clock, log: Logger
) -> AsyncIterator[Edge]:
    """What the routes use, connected; let go of in reverse order."""
    links = SegmentLinks(settings.links, clock=clock)
    store = open_store(settings.store)
    database = Database(settings.database)
    try:
        await _prepared(store, log=log)
        await _reach(database, settings, stop=stop, log=log)
        yield Edge(
            settings=settings,
            database=database,
            store=store,
            links=links,
            paths=SegmentPaths(links, ttl_s=settings.links.ttl_s, clock=clock),
            notices=Notices(
                database=database, listeners_max=settings.limits.listeners_max, log=log
            ),
            probes=(
                Probe(name="kafka", ask=lambda: ask_kafka(settings.kafka), clock=clock),
                Probe(name="postgres", ask=database.check, clock=clock),
                Probe(name="store", ask=store.check, clock=clock),
            ),
            clock=clock,
            log=log,
            stop=stop,
        )
    finally:
        # 3. connections last: nothing uses them any more
        await database.close()
        await store.close()
        log.info("api stopped", action="service.stopped")


async def _reach(
    database: Database, settings: ApiSettings, *, stop: asyncio.Event, log: Logger
) -> None:
    """Connect and migrate, as soon as PostgreSQL lets us.

    Raises:
        SegueError: it did not within the deadline.
    """
    last = "it was not asked"
    deadline_s = settings.database.start_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            while not stop.is_set():
                try:
                    await database.open()
                    await migrate(database)
                except RetryableError as error:
                    last = str(error)
                    log.warning("waits for PostgreSQL", action="store.retried", reason=last)
                    await database.close()
                    await pause(stop, AGAIN_S)
                else:
                    return
    if not stop.is_set():
        raise SegueError(f"PostgreSQL did not answer within {deadline_s:g} s: {last}")


def _listen(settings: ApiSettings) -> socket.socket:
    try:
        listening = socket.create_server((settings.host, settings.port), backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            "SEGUE_API_PORT", f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    # Inherited by every connection: without it head and body of an answer wait 40 ms for each
    # other, because asyncio sets it only on sockets that it made itself.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _uvicorn(app: FastAPI) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # paths hold segment tokens
        lifespan="off",
        timeout_graceful_shutdown=HTTP_STOP_S,
        server_header=False,
    )


class _Server(uvicorn.Server):
    """Uvicorn in a loop that is ours: signals are handled where the process starts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()
