"""Stage: what merger and muxer have in common: one verb, fed by one topic.

Builds the parts from the settings, consumes until told to stop, and takes everything down in
order. The verb itself knows nothing of Kafka.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from shared.clock import Clock, SystemClock
from shared.contract.events import Event, JobCancelled, Stage, run_of
from shared.http.health import Health
from shared.kafka.codec import Envelope
from shared.kafka.consumer import LaneConsumer
from shared.kafka.probes import connect_publisher, server_probes
from shared.kafka.producer import Publisher
from shared.kafka.router import Router, build_router
from shared.processing.active_runs import ActiveRuns
from shared.processing.slots import Slots
from shared.settings import HealthSettings, KafkaSettings, LaneSettings, StoreSettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.instrumented import InstrumentedStore
from shared.telemetry import trace
from shared.telemetry.log import Logger, logger_of
from shared.telemetry.metrics import SKIPPED_TOTAL


class WorkerSettings(Protocol):
    """What the settings of such a service have."""

    @property
    def kafka(self) -> KafkaSettings:
        """Where Kafka is."""
        ...

    @property
    def store(self) -> StoreSettings:
        """Where media lies."""
        ...

    @property
    def lanes(self) -> LaneSettings:
        """How much at once."""
        ...

    @property
    def health(self) -> HealthSettings:
        """Where it says how it is."""
        ...


Work = Callable[[Event], Awaitable[Event | None]]


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

    async def consume(self, topic: str, work: Work, *, slots: Slots) -> None:
        """Give every wanted event of `topic` to `work` until the stop; publish what it returns.

        Raises:
            DeadLetterLimitError: too many dead letters in a row.
            RetryableError: no broker answers at start.
        """

        async def handle(envelope: Envelope) -> None:
            event = envelope.event
            if not self.active_runs.is_current(event.job_id, run_of(event)):
                self._skip(event)
                return
            said = await work(event)
            if said is not None:
                await self.publisher.publish(said, traceparent=envelope.traceparent)

        async def cancelled(_envelope: Envelope) -> None:
            """`_on_received` has done what there is to do."""

        consumer = LaneConsumer(
            group=f"segue-{self.name}",
            handlers={topic: handle, JobCancelled.kind: cancelled},
            on_received=self._on_received,
            router=self.router,
            kafka=self.settings.kafka,
            lanes=self.settings.lanes,
            log=self.log,
        )
        if self.health.stop.is_set():
            return  # the start was given up
        self.health.figures = lambda: {**consumer.figures(), **slots.figures()}
        await consumer.run(self.health.stop, ready=self.health.ready)

    def _on_received(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, JobCancelled):
            self.active_runs.cancel(event.job_id, event.run)
        else:
            self.active_runs.observe(event.job_id, run_of(event))

    def _skip(self, event: Event) -> None:
        SKIPPED_TOTAL.labels(self.name, event.kind).inc()
        self.log.info(
            "event of a run that ended",
            action="record.skipped",
            job_id=event.job_id,
            run=run_of(event),
        )


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
    """The parts of a service, connected; taken down in order at the end.

    Where `stop` comes before its servers do, they are not connected, and `consume` returns.

    Raises:
        SegueError: a server was not there in time.
    """
    clock = clock or SystemClock()
    trace.set_service(name, topic_prefix=settings.kafka.topic_prefix)
    log = logger_of(name)
    log.info("service starts", action="service.starting")
    store = InstrumentedStore(open_store(settings.store), log=log)
    publisher = Publisher(settings.kafka, source=name, clock=clock)
    health = Health(
        service=name,
        start_s=settings.health.start_s,
        stop=stop,
        ready=ready or asyncio.Event(),
        clock=clock,
        log=log,
        probes=server_probes(settings.kafka, store, clock=clock),
    )
    async with health.serve(settings.health):
        try:
            await health.wait_for("the store", store.prepare)
            await health.wait_for("Kafka", lambda: connect_publisher(publisher, settings.kafka))
            yield WorkerService(
                name=name,
                settings=settings,
                store=store,
                publisher=publisher,
                router=_router(name, stage, settings, publisher, store, clock=clock),
                active_runs=ActiveRuns(),
                health=health,
                log=log,
            )
        finally:
            await _taken_down(publisher, store, log=log)


def _router(
    name: str,
    stage: Stage,
    settings: WorkerSettings,
    publisher: Publisher,
    store: ObjectStore,
    *,
    clock: Clock,
) -> Router:
    return build_router(
        service=name,
        stage=stage,
        publisher=publisher,
        store=store,
        settings=settings.lanes,
        clock=clock,
        log=logger_of(name),
    )


async def _taken_down(publisher: Publisher, store: ObjectStore, *, log: Logger) -> None:
    """After the consumer has finished what ran, committed and left: flush, then let go."""
    log.info("service stops", action="service.stopping")
    await publisher.stop()
    await store.close()
    log.info("service stopped", action="service.stopped")
