"""Processes one record to its end; the type of error decides what happens to it.

    RetryableError     retried in place: the lane waits, order is kept
    InvalidEventError  dead letter; later records of the run are parked behind it
    JobError           job.failed with the reason; the record is committed
    other exceptions   a bug: dead letter with its traceback, job.failed, the run is parked

Every job that stops publishes its reason. What cannot be published is retried until it can be:
without a broker there is nothing else to do, and nothing may be committed. `blocked` reports it, in
`readyz` and as a metric. What Kafka rejects for good stops the service instead.

I/O: Kafka, the store.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from shared.clock import Clock
from shared.contract.events import Event, JobFailed, RunEvent, Stage, run_of
from shared.errors import DeadLetterLimitError, InvalidEventError, JobError, RetryableError
from shared.kafka.codec import Envelope, Record, Unreadable
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.handler import Handler
from shared.kafka.parked_runs import REQUEUE_ID, ParkedRuns
from shared.kafka.producer import EventPublisher, Publisher
from shared.kafka.tracing import process_span
from shared.processing.retry import RetryPolicy, retrying
from shared.settings import LaneSettings
from shared.storage import ObjectStore
from shared.telemetry import trace
from shared.telemetry.consumer_metrics import ActiveRecords, BlockedRecords
from shared.telemetry.log import Logger
from shared.telemetry.metrics import (
    DEAD_LETTERS_TOTAL,
    FAILURES_TOTAL,
    RECORD_SECONDS,
    RECORDS_TOTAL,
    RETRIES_TOTAL,
    UNDECODABLE_TOTAL,
    WORK_SECONDS,
)
from shared.telemetry.redaction import redact

WaitUntilOwned = Callable[[], Awaitable[None]]
INTERNAL_ERROR = "internal_error"


class ParkedBehindError(InvalidEventError):
    """A valid record, parked because an earlier record of its run is a dead letter."""


@dataclass(kw_only=True)
class Router:
    """Processes the records of one service."""

    service: str
    stage: Stage
    publisher: EventPublisher
    dead_letters: DeadLetters
    parked: ParkedRuns
    policy: RetryPolicy
    clock: Clock
    log: Logger
    chance: random.Random = field(default_factory=random.Random)
    active_records: ActiveRecords = field(init=False)
    blocked: BlockedRecords = field(init=False)

    def __post_init__(self) -> None:
        """Register the metrics of the records in work."""
        self.active_records = ActiveRecords(self.service, self.clock)
        self.blocked = BlockedRecords(self.service, self.clock)

    async def run(
        self,
        received: Envelope | Unreadable,
        handler: Handler,
        *,
        wait_until_owned: WaitUntilOwned,
    ) -> None:
        """Process a record; return when it is safe to commit.

        Raises:
            DeadLetterLimitError: too many consecutive dead letters: stop the consumer.
        """
        event = received.event if isinstance(received, Envelope) else None
        with process_span(received.record, event):
            self.log.debug("processing record", action="record.received", **_place(received.record))
            await self._route(received, handler, wait_until_owned)

    async def _route(
        self,
        received: Envelope | Unreadable,
        handler: Handler,
        wait_until_owned: WaitUntilOwned,
    ) -> None:
        if isinstance(received, Unreadable):
            UNDECODABLE_TOTAL.labels(self.service, received.record.topic).inc()
            await self._dead_letter(received.record, received.error, attempts=1, is_counted=False)
            return
        envelope, record = received, received.record
        run = run_of(envelope.event)
        job_id = envelope.event.job_id
        requeue = record.header(REQUEUE_ID)
        if await self._until_available(
            lambda: self.parked.is_parked(job_id, run, record.topic, requeue=requeue)
        ):
            reason = ParkedBehindError("parked behind an earlier dead letter of its run")
            await self._dead_letter(record, reason, attempts=0, is_counted=False)
            # after the dead letter: a requeue that did not read it must not release the lane
            await self._until_available(lambda: self.parked.hold(job_id, run, record.topic))
            return
        with self.active_records.timed() as elapsed_s:
            if await self._attempt(envelope, handler, wait_until_owned):
                WORK_SECONDS.labels(self.service, record.topic).observe(elapsed_s())

    async def _attempt(
        self, envelope: Envelope, handler: Handler, wait_until_owned: WaitUntilOwned
    ) -> bool:
        """Retry until the handler succeeds; return False if the record was given up."""
        attempt = 1
        first_failed_at: datetime | None = None
        failing_since_s = 0.0
        while True:
            await wait_until_owned()
            try:
                await handler.handle(envelope)
            except RetryableError as error:
                if first_failed_at is None:
                    first_failed_at, failing_since_s = self.clock.now(), self.clock.monotonic()
                delay_s = self.policy.delay_s(
                    attempt, asked_s=error.retry_after_s, chance=self.chance
                )
                elapsed_s = self.clock.monotonic() - failing_since_s
                if self.policy.is_last(attempt) or self.policy.is_too_late(elapsed_s + delay_s):
                    await self._give_up(envelope, error, attempt, first_failed_at)
                    return False
                RETRIES_TOTAL.labels(self.service, envelope.record.topic).inc()
                self._log_retry(envelope, error, delay_s=round(delay_s, 2))
                await self.clock.sleep(delay_s)
                attempt += 1
            except JobError as error:
                await self._fail(envelope.event, error)
                self._count(envelope.record.topic, "job_failed")
                await self._on_processed(envelope)
                return False
            except DeadLetterLimitError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug stops its job, never the partition
                await self._give_up(envelope, error, attempt, first_failed_at)
                return False
            else:
                self.dead_letters.record_success()
                self._count_done(envelope.record)
                self.log.debug("record processed", action="record.processed", attempt=attempt)
                await self._on_processed(envelope)
                return True

    async def _on_processed(self, envelope: Envelope) -> None:
        """Release the lane if this was the last record of its requeue."""
        job_id, run = envelope.event.job_id, run_of(envelope.event)
        record = envelope.record
        await self._until_available(
            lambda: self.parked.on_processed(record, job_id=job_id, run=run)
        )

    async def _give_up(
        self, envelope: Envelope, error: Exception, attempts: int, first_failed_at: datetime | None
    ) -> None:
        """Publish job.failed, park the run, publish the dead letter; in this order.

        Not above the limit of consecutive dead letters: then the fault is the service's.
        """
        self.dead_letters.record_failure(error)
        event, topic = envelope.event, envelope.record.topic
        is_known = isinstance(error, RetryableError | InvalidEventError)
        failure = JobError(
            redact(str(error) if is_known else f"internal error: {type(error).__name__}: {error}"),
            code="gave_up" if is_known else INTERNAL_ERROR,
            retryable=True,
        )
        await self._fail(event, failure)
        run = run_of(event)
        await self._until_available(
            lambda: self.parked.park(event.job_id, run, topic, reason=failure.reason)
        )
        await self._dead_letter(
            envelope.record, error, attempts=attempts, first_failed_at=first_failed_at
        )

    async def _fail(self, event: Event, error: JobError) -> None:
        trace.record_error(error)
        if not isinstance(event, RunEvent):
            return  # upstream's video.stitched: it has no run yet that could fail
        scene_index = getattr(event, "scene_index", None)
        failed = JobFailed(
            job_id=event.job_id,
            run=event.run,
            stage=self.stage,
            code=error.code,
            message=error.reason,
            scene_index=scene_index if self.stage is Stage.GENERATION else None,
            retryable=error.retryable,
            cost_usd=error.cost_usd,
        )
        await self._until_available(lambda: self.publisher.publish(failed))
        FAILURES_TOTAL.labels(self.service, error.code).inc()
        self.log.warning(
            "job failed",
            action="job.failed",
            job_id=event.job_id,
            run=event.run,
            code=error.code,
            reason=error.reason,
        )

    async def _dead_letter(
        self,
        record: Record,
        error: Exception,
        *,
        attempts: int,
        first_failed_at: datetime | None = None,
        is_counted: bool = True,
    ) -> None:
        trace.record_error(error)
        DEAD_LETTERS_TOTAL.labels(self.service, record.topic).inc()
        self._count(record.topic, "dead_lettered")
        self.log.error(
            "record dead-lettered",
            action="record.dead_lettered",
            **_place(record),
            reason=str(error),
            attempts=attempts,
        )
        await self._until_available(
            lambda: self.dead_letters.publish(
                record,
                error,
                attempts=attempts,
                first_failed_at=first_failed_at,
                is_counted=is_counted,
            )
        )

    async def _until_available(self, call: Callable[[], Awaitable[object]]) -> object:
        """Retry `call` until Kafka or the store answers; only cancellation ends the wait."""

        def log_retry(error: Exception, _delay_s: float) -> None:
            blocked(str(error))
            self.log.warning(
                "Kafka or store unavailable", action="dependency.unavailable", reason=str(error)
            )

        with self.blocked.tracked() as blocked:
            return await retrying(
                call,
                policy=replace(self.policy, attempts_max=None),
                clock=self.clock,
                on_retry=log_retry,
                chance=self.chance,
            )

    def _log_retry(self, envelope: Envelope, error: Exception, *, delay_s: float) -> None:
        self.log.warning(
            "retrying record",
            action="record.retried",
            job_id=envelope.event.job_id,
            topic=envelope.record.topic,
            offset=envelope.record.offset,
            reason=str(error),
            delay_s=delay_s,
        )

    def _count_done(self, record: Record) -> None:
        self._count(record.topic, "done")
        if record.timestamp_s is not None:
            age_s = self.clock.now().timestamp() - record.timestamp_s
            RECORD_SECONDS.labels(self.service, record.topic).observe(max(0.0, age_s))

    def _count(self, topic: str, outcome: str) -> None:
        RECORDS_TOTAL.labels(self.service, topic, outcome).inc()


def _place(record: Record) -> dict[str, str | int]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def build_router(
    *,
    service: str,
    stage: Stage,
    publisher: Publisher,
    store: ObjectStore,
    settings: LaneSettings,
    clock: Clock,
    log: Logger,
) -> Router:
    """Return the router of a service, built from its settings."""
    return Router(
        service=service,
        stage=stage,
        publisher=publisher,
        dead_letters=DeadLetters(
            publisher,
            service=service,
            clock=clock,
            consecutive_max=settings.dead_letters_max,
            store=store,
        ),
        parked=ParkedRuns(store),
        policy=RetryPolicy(
            first_s=settings.backoff_first_s,
            max_s=settings.backoff_max_s,
            attempts_max=settings.attempts_max,
            deadline_s=settings.retry_deadline_s,
        ),
        clock=clock,
        log=log,
    )
