"""Runs the api service: starts its parts, serves HTTP, and stops in order.

The service listens at once; while it waits for PostgreSQL, only the health routes respond. The
relay and the projection wait for Kafka in the background, so requests are accepted while Kafka is
unavailable.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from services.api.background.gauges import GaugeUpdater
from services.api.background.job_notifications import JobNotifications
from services.api.background.outbox_relay import OutboxRelay
from services.api.database import Connection, Database, pricing, scene_delays
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
from shared.kafka.probes import check_codecs, server_probes
from shared.security.signed_links import SegmentLinks, WebhookLinks
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.instrumented import InstrumentedStore
from shared.telemetry import trace
from shared.telemetry.log import Logger, logger_of

HTTP_STOP_S = 3  # for responses in progress; status streams end on their own
WORK_STOP_S = 3.0  # for the current batch, and leaving the group


async def run(
    settings: ApiSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until `stop`; used by `__main__`, the embedded stack and the tests.

    Raises:
        SegueError: the service could not start, or failed.
    """
    clock = clock or SystemClock()
    trace.set_service("api", topic_prefix=settings.kafka.topic_prefix)
    log = logger_of("api")
    choice = settings.pricing.choice
    log.info("starting", action="service.starting", host=settings.host, port=settings.port)
    log.info(
        "provider chosen", action="provider.chosen", provider=choice.name, reason=choice.reason
    )
    health = Health(
        service="api",
        start_s=settings.database.start_s,
        stop=stop,
        ready=asyncio.Event(),
        clock=clock,
        log=log,
    )
    check_codecs()
    listening = listen(settings.host, settings.port, setting="SEGUE_API_PORT")
    admission = AdmissionControl(health, requests_max=settings.limits.requests_max)
    server = HttpServer(
        admission,
        listening,
        stop_s=HTTP_STOP_S,
        connections_max=settings.limits.connections_max,
    )
    try:
        serving = await server.start()
        async with _context(settings, health=health) as context:
            if stop.is_set():
                return
            await resume_in_new_epoch(context.database, settings.kafka.epoch, clock=clock, log=log)
            context.scratch.sweep(log=log)
            admission.open(create_app(context))
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
    """Serve HTTP and run the background tasks; when one ends, stop all."""
    work = [asyncio.create_task(coroutine) for coroutine in _background(context)]
    stopped = asyncio.create_task(context.stop.wait())
    try:
        context.log.info("ready", action="service.ready", port=server.port)
        if ready is not None:
            ready.set()
        await asyncio.wait({serving, stopped, *work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # 1. accept no new requests, finish responses in progress, end status streams
        context.log.info("stopping", action="service.stopping")
        context.stop.set()
        server.request_stop()
        # 2. projection, relay and notifications finish their batch and stop
        await _wait_for({serving, stopped, *work})
    for task in (serving, *work):
        task.result()  # raise the error that ended the service


def _background(context: ApiContext) -> list[Coroutine[Any, Any, None]]:
    """Return the background tasks."""
    settings, clock, log = context.settings, context.clock, context.log

    async def on_new_log(connection: Connection) -> None:
        await resume(connection, clock=clock, log=log)

    projection = ProjectionConsumer(
        database=context.database,
        applier=Applier(
            database=context.database,
            settings=settings,
            clock=clock,
            log=log,
            store=context.store,
        ),
        settings=settings,
        on_new_log=on_new_log,
        log=log,
    )
    relay = OutboxRelay(context.database, settings.kafka, clock=clock, log=log, store=context.store)
    gauges = GaugeUpdater(database=context.database, clock=clock)
    tasks = (projection, relay, context.notifications, gauges, context.upload_sweep)
    return [task.run(context.stop) for task in tasks]


async def _wait_for(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait for `tasks`, then cancel the unfinished ones."""
    _, late = await asyncio.wait(tasks, timeout=HTTP_STOP_S + WORK_STOP_S)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=1.0)


async def _prepare_store(store: ObjectStore, *, log: Logger) -> None:
    """Create the bucket; if the store is unavailable, later calls retry."""
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
async def _context(settings: ApiSettings, *, health: Health) -> AsyncIterator[ApiContext]:
    """Connect the dependencies of the routes; close them in reverse order.

    Raises:
        SegueError: PostgreSQL was not available in time.
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
        await _prepare_store(store, log=log)
        await health.wait_for("PostgreSQL", lambda: _open_database(database, settings, clock))
        health.probes.append(_provider_probe(database, clock=clock))  # reads tables
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
        # 3. close connections last
        await database.close()
        await store.close()
        log.info("stopped", action="service.stopped")


def _provider_probe(database: Database, *, clock: Clock) -> Probe:
    """Return a probe that fails while the provider is paused.

    It is not required: the api still accepts requests, and the queue keeps them.
    """

    async def check_pause() -> None:
        async with database.connection() as connection:
            paused = await scene_delays.pause(connection)
        if paused is not None:
            raise ProviderPausedError(f"paused: {paused.reason} ({paused.scenes} scenes wait)")

    return Probe(name="provider", call=check_pause, clock=clock, required=False)


async def _open_database(database: Database, settings: ApiSettings, clock: Clock) -> None:
    """Connect, apply the migrations, and record the prices for operator commands."""
    try:
        await database.open()
        await migrate(database)
        async with database.transaction() as connection:
            await pricing.record(connection, settings.pricing, now=clock.now())
    except BaseException:
        await database.close()
        raise
