"""App: the api service, wired, served, and taken down in order.

It listens from the first moment: while PostgreSQL is waited for, health alone answers. Then the
whole context does; relay and projection wait for Kafka beside it, so requests are accepted while it
is away.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from services.api.background.gauges import GaugeUpdater
from services.api.background.job_notifications import JobNotifications
from services.api.background.outbox_relay import OutboxRelay
from services.api.database import Connection, Database, scene_delays
from services.api.database.migrate import migrate
from services.api.http.application import create_app
from services.api.http.context import ApiContext, SegmentPaths
from services.api.http.middleware.admission import AdmissionControl
from services.api.http.webhook_keys import WebhookKeys
from services.api.projection.apply_batch import Applier
from services.api.projection.consumer import ProjectionConsumer
from services.api.runs.resume import resume, resume_in_new_epoch
from services.api.settings import ApiSettings
from shared.clock import Clock, SystemClock
from shared.errors import ProviderPausedError, RetryableError
from shared.http.health import Health
from shared.http.probes import Probe
from shared.http.server import HttpServer, listen
from shared.kafka.probes import server_probes
from shared.security.signed_links import SegmentLinks, WebhookLinks
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.instrumented import InstrumentedStore
from shared.telemetry import trace
from shared.telemetry.log import Logger, logger_of

HTTP_STOP_S = 3  # for answers under way; the streams of followers end by themselves
WORK_STOP_S = 3.0  # for the batch under way, and leaving the group


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
    trace.set_service("api", topic_prefix=settings.kafka.topic_prefix)
    log = logger_of("api")
    log.info("starting", action="service.starting", host=settings.host, port=settings.port)
    health = Health(
        service="api",
        start_s=settings.database.start_s,
        stop=stop,
        ready=asyncio.Event(),
        clock=clock,
        log=log,
    )
    listening = listen(settings.host, settings.port, setting="SEGUE_API_PORT")
    door = AdmissionControl(health, requests_max=settings.limits.requests_max)
    server = HttpServer(door, listening, stop_s=HTTP_STOP_S)
    try:
        serving = await server.start()
        async with _parts(settings, health=health) as context:
            if stop.is_set():
                return
            await resume_in_new_epoch(context.database, settings.kafka.epoch, clock=clock, log=log)
            door.open(create_app(context))
            await _serve(server, serving, context, ready=ready)
    finally:
        await server.stop()


async def _serve(
    server: HttpServer,
    serving: asyncio.Task[None],
    context: ApiContext,
    *,
    ready: asyncio.Event | None,
) -> None:
    """Run the context and everything beside it; when one ends, all do."""
    work = [asyncio.create_task(coroutine) for coroutine in _work(context)]
    stopped = asyncio.create_task(context.stop.wait())
    try:
        context.log.info("ready", action="service.ready", port=server.port)
        if ready is not None:
            ready.set()
        await asyncio.wait({serving, stopped, *work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # 1. no new requests, answers under way are finished; followers hear the end
        context.log.info("stopping", action="service.stopping")
        context.stop.set()
        server.request_stop()
        # 2. projection, relay and listening finish their batch and leave
        await _ended({serving, stopped, *work})
    for task in (serving, *work):
        task.result()  # a fault that ended everything is told to whoever runs us


def _work(context: ApiContext) -> list[Coroutine[Any, Any, None]]:
    """What runs beside the HTTP context."""
    settings, clock, log = context.settings, context.clock, context.log

    async def log_is_new(connection: Connection) -> None:
        await resume(connection, clock=clock, log=log)

    projector = ProjectionConsumer(
        database=context.database,
        applier=Applier(database=context.database, settings=settings, clock=clock, log=log),
        settings=settings,
        log_is_new=log_is_new,
        log=log,
    )
    relay = OutboxRelay(context.database, settings.kafka, clock=clock, log=log)
    meter = GaugeUpdater(database=context.database, clock=clock)
    beside = (projector, relay, context.notifications, meter)
    return [one.run(context.stop) for one in beside]


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
        log.warning(
            "store unavailable",
            action="dependency.unavailable",
            dependency="store",
            reason=str(error),
        )


@asynccontextmanager
async def _parts(settings: ApiSettings, *, health: Health) -> AsyncIterator[ApiContext]:
    """What the routes use, connected; let go of in reverse order.

    Raises:
        SegueError: PostgreSQL was not there in time.
    """
    stop, clock, log = health.stop, health.clock, health.log
    links = SegmentLinks(settings.links, clock=clock)
    store = InstrumentedStore(open_store(settings.store), log=log)
    database = Database(settings.database)
    health.probes += [
        *server_probes(settings.kafka, store, clock=clock),
        Probe(name="postgres", call=database.check, clock=clock),
    ]
    try:
        await _prepared(store, log=log)
        await health.wait_for("PostgreSQL", lambda: _migrated(database))
        health.probes.append(_provider_probe(database, clock=clock))  # it reads tables
        yield ApiContext(
            settings=settings,
            database=database,
            store=store,
            links=links,
            paths=SegmentPaths(links, ttl_s=settings.links.ttl_s, clock=clock),
            webhook_links=WebhookLinks(settings.links, clock=clock),
            webhook_keys=WebhookKeys(
                settings.webhook_secret, settings.pricing.replicate, clock=clock
            ),
            notifications=JobNotifications(
                database=database, listeners_max=settings.limits.listeners_max, log=log
            ),
            probes=tuple(health.probes),
            clock=clock,
            log=log,
            stop=stop,
        )
    finally:
        # 3. connections last: nothing uses them any more
        await database.close()
        await store.close()
        log.info("stopped", action="service.stopped")


def _provider_probe(database: Database, *, clock: Clock) -> Probe:
    """Whether the provider pauses.

    A paused one does not make the api unready: it takes requests in, and the queue keeps them;
    taken out of its balancer it would only refuse them.
    """

    async def ask() -> None:
        async with database.connection() as connection:
            paused = await scene_delays.pause(connection)
        if paused is not None:
            raise ProviderPausedError(f"paused: {paused.reason} ({paused.scenes} scenes wait)")

    return Probe(name="provider", call=ask, clock=clock, required=False)


async def _migrated(database: Database) -> None:
    """Connect, and bring the tables up to this version."""
    try:
        await database.open()
        await migrate(database)
    except BaseException:
        await database.close()
        raise
