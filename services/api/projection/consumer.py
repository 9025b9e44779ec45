"""Consumes every event topic and updates the view of every job.

The consumer group assigns the partitions; the start offsets come from PostgreSQL alone, where they
move in the transaction of the rows. The offsets committed to Kafka only serve lag monitoring. A
partition is paused from its assignment until the consumer has sought its stored offset.

I/O: Kafka; PostgreSQL through `apply_batch`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from typing_extensions import override

from services.api.database import Connection, Database, offsets
from services.api.projection.apply_batch import Applier, Batch, StaleBatchError
from services.api.settings import ApiSettings
from shared.contract.topics import EVENT_TOPICS
from shared.errors import RetryableError, StoreUnavailableError
from shared.kafka.admin import ensure_topics
from shared.kafka.client import group_options
from shared.kafka.codec import Record
from shared.kafka.consumer import record_of
from shared.kafka.fetch.fetcher import read_to
from shared.processing.offset_tracker import PartitionPosition
from shared.processing.retry import RetryPolicy, restarting
from shared.processing.wait import wait_or_stop
from shared.settings import KafkaSettings
from shared.telemetry.consumer_metrics import ConsumerMetrics
from shared.telemetry.log import Logger

GROUP = "segue-api"
POLL_MS = 200
POLL_RECORDS = 2000
AGAIN_S = 1.0
RETRY = RetryPolicy(first_s=1.0, max_s=10.0, attempts_max=None)
COMMIT_S = 5.0
COMMIT_EVERY_S = 5.0
MAX_POLL_INTERVAL_MS = 600_000  # PostgreSQL may be unavailable for minutes, for every consumer
OFFSETS_S = 15.0


class ProjectionConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Applies the records of every event topic to the database."""

    def __init__(
        self,
        *,
        database: Database,
        applier: Applier,
        settings: ApiSettings,
        on_new_log: Callable[[Connection], Awaitable[None]],
        log: Logger,
        build: Callable[[KafkaSettings], AIOKafkaConsumer] | None = None,
    ) -> None:
        self._database = database
        self._applier = applier
        self._kafka = settings.kafka
        #: called when the log is shorter than the stored offset, i.e. was created again; in the
        #: transaction that resets the offset, because it is noticed only once
        self._on_new_log = on_new_log
        self._log = log
        self._build = build or build_consumer
        self._next: dict[TopicPartition, int] = {}  #: next offset of each partition in PostgreSQL
        self._unsought: set[TopicPartition] = set()
        self._recreated: set[TopicPartition] = set()  #: whose offsets begin again
        self._committed_at = 0.0
        self._positions: dict[TopicPartition, PartitionPosition] = {}
        self._metrics = ConsumerMetrics(
            service="api",
            topics=[topic.name for topic in EVENT_TOPICS],
            prefix=settings.kafka.topic_prefix,
            positions=lambda: self._positions,
            end_offset=self._end_of,
            clock=applier.clock,
            is_consuming=False,
        )
        self.following = asyncio.Event()  #: partitions are assigned and sought

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; retry while Kafka or PostgreSQL is unavailable."""
        with self._metrics.exported():
            await self._run(stop)
        self._log.info("projection stopped", action="consumer.stopped")

    async def _run(self, stop: asyncio.Event) -> None:
        async def consume() -> None:
            consumer = self._consumer = self._build(self._kafka)
            try:
                await ensure_topics(self._kafka)
                await consumer.start()
                await self._follow(consumer, stop)
            finally:
                self.following.clear()
                self._metrics.is_consuming = False
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    async with asyncio.timeout(COMMIT_S):
                        await consumer.stop()

        def log_retry(error: Exception, _delay_s: float) -> None:
            self._log.warning(
                "Kafka unavailable; the projection waits",
                action="dependency.unavailable",
                dependency="kafka",
                reason=str(error),
            )

        await restarting(
            consume,
            stop=stop,
            policy=RETRY,
            clock=self._applier.clock,
            on_retry=log_retry,
            errors=(RetryableError, KafkaError, OSError, TimeoutError),
        )

    async def _follow(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        topics = [self._kafka.topic_prefix + topic.name for topic in EVENT_TOPICS]
        consumer.subscribe(topics, listener=self)
        while not stop.is_set():
            try:
                await self._seek()
                polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
                for partition, records in polled.items():
                    await self._apply(partition, records)
                await self._commit()
                self._metrics.is_consuming = True
            except RetryableError as error:
                is_store = isinstance(error, StoreUnavailableError)  # for a large dead letter
                self._log.warning(
                    "PostgreSQL or the store unavailable; the projection waits",
                    action="dependency.unavailable",
                    dependency="store" if is_store else "postgres",
                    reason=str(error),
                )
                self._metrics.is_consuming = False
                self._hold(*self._next)
                await wait_or_stop(stop, AGAIN_S)

    async def _apply(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        if partition in self._unsought or partition not in self._next:
            return  # reassigned after these were fetched
        start, end = self._next[partition], records[-1].offset + 1
        if records[0].offset < start:
            self._recreated.add(partition)
            self._hold(partition)
            return
        first, last = (record_of(raw, prefix="") for raw in (records[0], records[-1]))
        self._set_position(partition, last, oldest=first)
        batch = Batch(
            topic=partition.topic,
            partition=partition.partition,
            start=start,
            end=end,
            records=tuple(record_of(raw, prefix=self._kafka.topic_prefix) for raw in records),
        )
        try:
            await self._applier.apply(batch)
        except StaleBatchError as error:
            self._log.warning(
                "another projector applied this batch",
                action="projection.superseded",
                reason=str(error),
            )
            self._hold(partition)
            return
        self._next[partition] = end
        self._set_position(partition, last)
        self._log.debug(
            "batch applied",
            action="projection.applied",
            topic=partition.topic,
            partition=partition.partition,
            records=len(records),
        )

    async def _seek(self) -> None:
        """Seek new partitions to their stored offset; 0 if the log was created again."""
        wanted = sorted(self._unsought & set(self._consumer.assignment()))
        if not wanted:
            return
        async with asyncio.timeout(OFFSETS_S):
            ends = await self._consumer.end_offsets(wanted)
        epoch, is_new_log = self._kafka.epoch, False
        async with self._database.transaction() as connection:
            names = [(tp.topic, tp.partition) for tp in wanted]
            stored = await offsets.stored(connection, epoch, names)
            for tp, name in zip(wanted, names, strict=True):
                if stored[name] > ends[tp] or tp in self._recreated:
                    await offsets.advance(connection, epoch, name, start=stored[name], end=0)
                    stored[name], is_new_log = 0, True
            if is_new_log:
                await self._on_new_log(connection)
        assigned = set(self._consumer.assignment())  # the group may have rebalanced meanwhile
        for tp, name in zip(wanted, names, strict=True):
            if tp in assigned:
                self._next[tp] = stored[name]
                self._positions.pop(tp, None)  # read again from the stored offset
                self._consumer.seek(tp, stored[name])
        self._unsought -= set(wanted)
        self._recreated -= set(wanted)
        self._consumer.resume(*assigned & set(wanted))
        self.following.set()

    def _set_position(
        self, partition: TopicPartition, last: Record, *, oldest: Record | None = None
    ) -> None:
        """Store the last record read and the oldest one not applied, for the metrics."""
        self._positions[partition] = PartitionPosition(
            next_offset=last.offset + 1,
            last_timestamp_s=last.timestamp_s,
            oldest_offset=oldest.offset if oldest else None,
            oldest_timestamp_s=oldest.timestamp_s if oldest else None,
        )

    def _end_of(self, partition: Hashable) -> int | None:
        if partition not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(partition)
        return None if (read_to(self._consumer, partition) or 0) >= (end or 0) else end

    def _hold(self, *partitions: TopicPartition) -> None:
        assigned = set(partitions) & set(self._consumer.assignment())
        self._unsought |= assigned
        self._consumer.pause(*assigned)

    async def _commit(self) -> None:
        """Commit the offsets to Kafka for lag monitoring."""
        now = asyncio.get_running_loop().time()
        assigned = set(self._consumer.assignment()) - self._unsought
        offsets_now = {tp: at for tp, at in self._next.items() if tp in assigned}
        if now - self._committed_at < COMMIT_EVERY_S or not offsets_now:
            return
        self._committed_at = now
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(COMMIT_S):
                await self._consumer.commit(offsets_now)

    @override
    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Do nothing: no record is in flight between two polls."""

    @override
    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Pause every partition until it is sought to its stored offset."""
        self._next = {}
        self._positions = {tp: at for tp, at in self._positions.items() if tp in assigned}
        self._unsought = set(assigned)
        self._consumer.pause(*assigned)
        self._log.info("partitions assigned", action="partitions.assigned", count=len(assigned))


def build_consumer(kafka: KafkaSettings) -> AIOKafkaConsumer:
    """Return the consumer of the api's group, not started."""
    return AIOKafkaConsumer(
        **group_options(kafka, GROUP, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
    )
