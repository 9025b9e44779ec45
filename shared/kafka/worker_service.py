"""Runs a service that turns the events of one topic into others: merger and muxer.

`worker_service` builds the parts from the settings, connects them and shuts them down in order;
`WorkerService.consume` runs the consumer with the service's `Handler`.

I/O: Kafka, the store, HTTP (health).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from shared.clock import Clock, SystemClock
from shared.contract.events import Event, JobCancelled, RunEvent, Stage, run_of
from shared.http.health import Health
from shared.kafka.consumer import LaneConsumer
from shared.kafka.handler import Handler
from shared.kafka.probes import connect_publisher, progress_probe, server_probes
from shared.kafka.producer import Publisher
from shared.kafka.router import Router, build_router
from shared.processing.active_runs import ActiveRuns
from shared.processing.cancellation import RunCancellation
from shared.processing.slots import Slots
from shared.settings import WorkerSettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.instrumented import InstrumentedStore
from shared.telemetry import trace
from shared.telemetry.log import Logger, logger_of
from shared.telemetry.metrics import SKIPPED_TOTAL

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WorkerService:
    """The parts of one running service."""

    name: str
    settings: WorkerSettings
    store: ObjectStore
    publisher: Publisher
    router: Router
    active_runs: ActiveRuns
    health: Health
    log: Logger

    async def consume(self, handler: Handler, *, slots: Slots) -> None:
        """Process the topics of `handler` until the stop; return at once if already stopped.

        `slots` bound the handler's work; they are reported in `readyz`.

        Raises:
            DeadLetterLimitError: too many consecutive dead letters.
            RetryableError: no broker is available at start.
        """
        consumer = LaneConsumer(
            group=f"segue-{self.name}",
            handler=handler,
            router=self.router,
            kafka=self.settings.kafka,
            lanes=self.settings.lanes,
            log=self.log,
        )
        if self.health.stop.is_set():
            return
        self.health.figures = lambda: {**consumer.figures(), **slots.figures()}
        self.health.probes.append(
            progress_probe(self.router, consumer.commit_due_s, clock=self.health.clock)
        )
        await consumer.run(self.health.stop, ready=self.health.ready)

    @cached_property
    def cancellation(self) -> RunCancellation:
        """Return what interrupts the work of ended runs."""
        return RunCancellation(self.active_runs)

    async def unless_ended(self, event: RunEvent, work: Awaitable[T]) -> T:
        """Return the result of `work`; interrupt it when the event's run ends.

        Raises:
            RunEndedError: the run was superseded or cancelled.
        """
        return await self.cancellation.unless_ended(event.job_id, event.run, work)

    def observe_run(self, event: Event) -> None:
        """Track the newest run of each job from a received event; interrupt ended runs."""
        if isinstance(event, JobCancelled):
            self.active_runs.cancel(event.job_id, event.run)
        else:
            self.active_runs.observe(event.job_id, run_of(event))
        self.cancellation.wake_ended(event.job_id)

    def skips(self, event: Event) -> bool:
        """Return True, and log it, if the event's run was superseded or cancelled."""
        if self.active_runs.is_current(event.job_id, run_of(event)):
            return False
        SKIPPED_TOTAL.labels(self.name, event.kind).inc()
        self.log.info(
            "event skipped: its run was superseded or cancelled",
            action="record.skipped",
            job_id=event.job_id,
            run=run_of(event),
        )
        return True


@asynccontextmanager
async def worker_service(
    name: str,
    stage: Stage,
    settings: WorkerSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[WorkerService]:
    """Yield the connected parts of a service; shut them down in order afterwards.

    If `stop` is set before its servers are available, they are not connected.

    Raises:
        SegueError: a server was not available in time.
    """
    trace.set_service(name, topic_prefix=settings.kafka.topic_prefix)
    log = logger_of(name)
    log.info("starting", action="service.starting")
    service = _build(name, stage, settings, stop, ready or asyncio.Event(), clock or SystemClock())
    health, publisher, store = service.health, service.publisher, service.store
    async with health.serve(settings.health):
        try:
            await health.wait_for("the store", store.prepare)
            await health.wait_for("Kafka", lambda: connect_publisher(publisher, settings.kafka))
            yield service
        finally:
            # the consumer has finished its lanes, committed and left: 1. flush; 2. close the store
            log.info("stopping", action="service.stopping")
            await publisher.stop()
            await store.close()
            log.info("stopped", action="service.stopped")


def _build(
    name: str,
    stage: Stage,
    settings: WorkerSettings,
    stop: asyncio.Event,
    ready: asyncio.Event,
    clock: Clock,
) -> WorkerService:
    """Return the parts of a service, not connected."""
    log = logger_of(name)
    store = InstrumentedStore(open_store(settings.store), log=log)
    publisher = Publisher(settings.kafka, source=name, clock=clock)
    return WorkerService(
        name=name,
        settings=settings,
        store=store,
        publisher=publisher,
        router=build_router(
            service=name,
            stage=stage,
            publisher=publisher,
            store=store,
            settings=settings.lanes,
            clock=clock,
            log=log,
        ),
        active_runs=ActiveRuns(),
        health=Health(
            service=name,
            start_s=settings.health.start_s,
            stop=stop,
            ready=ready,
            clock=clock,
            log=log,
            probes=server_probes(settings.kafka, store, clock=clock),
        ),
        log=log,
    )
