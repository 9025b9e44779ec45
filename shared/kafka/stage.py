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
from shared.events import Event, JobCancelled, Stage
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Envelope
from shared.kafka.consumer import LaneConsumer
from shared.kafka.producer import Publisher
from shared.kafka.routing import Router, build_router
from shared.runs import RunBook
from shared.settings import KafkaSettings, LaneSettings, StoreSettings
from shared.storage import ObjectStore
from shared.storage.opening import open_store
from shared.telemetry.log import Logger, logger_of
from shared.telemetry.metrics import SKIPPED_TOTAL


class StageSettings(Protocol):
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


Work = Callable[[Event], Awaitable[Event | None]]


@dataclass(frozen=True, kw_only=True)
class StageService:
    """The parts of one running service."""

    name: str
    settings: StageSettings
    store: ObjectStore
    publisher: Publisher
    router: Router
    book: RunBook
    log: Logger

    async def consume(
        self,
        topic: str,
        work: Work,
        *,
        stop: asyncio.Event,
        ready: asyncio.Event | None = None,
    ) -> None:
        """Give every wanted event of `topic` to `work`; publish what it returns.

        Raises:
            DeadLetterLimitError: too many dead letters in a row.
            RetryableError: no broker answers at start.
        """

        async def handle(envelope: Envelope) -> None:
            event = envelope.event
            if not self.book.counts(event.job_id, getattr(event, "run", 1)):
                self._skip(event)
                return
            said = await work(event)
            if said is not None:
                await self.publisher.publish(said, traceparent=envelope.traceparent)

        async def cancelled(_envelope: Envelope) -> None:
            """`_seen` has done what there is to do."""

        consumer = LaneConsumer(
            group=f"segue-{self.name}",
            handlers={topic: handle, JobCancelled.kind: cancelled},
            seen=self._seen,
            router=self.router,
            kafka=self.settings.kafka,
            lanes=self.settings.lanes,
            log=self.log,
        )
        await consumer.run(stop, ready=ready)

    def _seen(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, JobCancelled):
            self.book.cancel(event.job_id, event.run)
        else:
            self.book.note(event.job_id, getattr(event, "run", 1))

    def _skip(self, event: Event) -> None:
        SKIPPED_TOTAL.labels(self.name, event.kind).inc()
        self.log.info(
            "event of a run that ended",
            action="record.skipped",
            job_id=event.job_id,
            run=getattr(event, "run", None),
        )


@asynccontextmanager
async def stage_service(
    name: str, stage: Stage, settings: StageSettings, *, clock: Clock | None = None
) -> AsyncIterator[StageService]:
    """The parts of a service, connected; taken down in order at the end.

    Raises:
        RetryableError: no broker answers.
    """
    clock = clock or SystemClock()
    log = logger_of(name)
    log.info("service starts", action="service.starting")
    await ensure_topics(settings.kafka)
    store = open_store(settings.store)
    await store.prepare()
    publisher = Publisher(settings.kafka, source=name, clock=clock)
    await publisher.start()
    try:
        yield StageService(
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
            book=RunBook(),
            log=log,
        )
    finally:
        log.info("service stops", action="service.stopping")
        await publisher.stop()
        await store.close()
        log.info("service stopped", action="service.stopped")
