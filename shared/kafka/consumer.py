"""Consumes topics with one lane per job: poll, process, commit.

The service's handler processes the records, `Router` decides what follows from its errors, and
the group's committed offset is the low watermark of the lanes: nothing beyond an unfinished
record. When the lanes are full the partitions are paused; no record is dropped.

I/O: Kafka.
"""

import asyncio
import contextlib
from collections.abc import Hashable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka.client import group_options, unavailable
from shared.kafka.codec import Envelope, Record, lane_key, try_decode
from shared.kafka.fetch.fetcher import read_to
from shared.kafka.handler import Handler
from shared.kafka.router import Router
from shared.processing.lanes import Lanes
from shared.settings import KafkaSettings, LaneSettings
from shared.telemetry.consumer_metrics import ConsumerMetrics, export_lane_metrics
from shared.telemetry.log import Logger
from shared.telemetry.metrics import WORK_DEDUPLICATED_TOTAL

POLL_MS = 200
POLL_RECORDS = 500
COMMIT_EVERY_S = 0.5
COMMIT_S = 10.0
# With the drain before and the flush after them, a shutdown takes at most ten seconds even if
# the broker hangs; uncommitted records are read again.
LAST_COMMIT_S, LEAVE_S = 2.0, 1.0
MAX_POLL_INTERVAL_MS = 300_000  # the loop polls every POLL_MS, however long the lanes take
TIMESTAMP_MS_MAX = 253_402_300_799_000  # the year 9999; a producer may send any number
RESUME_AT = 0.7  # share of in_flight_max below which paused partitions resume


class LaneConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Consumes the topics of `handler` in the consumer group `group`, one lane per job."""

    def __init__(
        self,
        *,
        group: str,
        handler: Handler,
        router: Router,
        kafka: KafkaSettings,
        lanes: LaneSettings,
        log: Logger,
    ) -> None:
        self._handler = handler
        self._router = router
        self._kafka = kafka
        self._limits = lanes
        self._log = log
        self._lanes: Lanes[int] = Lanes(self._mark_committable)
        self._committable: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}  #: offset behind the last record polled
        self._is_rebalancing = False
        self._consumer = AIOKafkaConsumer(
            **group_options(kafka, group, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        )
        self._metrics = ConsumerMetrics(
            service=router.service,
            topics=list(handler.topics),
            prefix=kafka.topic_prefix,
            positions=self._lanes.positions,
            end_offset=self._end_offset,
            clock=router.clock,
        )

    def figures(self) -> dict[str, int]:
        """Return the number of active lanes and of records in flight, for `readyz`."""
        return self._lanes.figures()

    def commit_due_s(self) -> float:
        """Return the time since a commit became due without one succeeding."""
        return self._metrics.commit_due_s()

    async def run(self, stop: asyncio.Event, *, ready: asyncio.Event | None = None) -> None:
        """Consume until `stop`; set `ready` once the consumer has started.

        Raises:
            DeadLetterLimitError: too many consecutive dead letters; the rest stays uncommitted.
            RetryableError: no broker is available at start.
        """
        self._consumer.subscribe(
            [self._kafka.topic_prefix + topic for topic in self._handler.topics], listener=self
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise unavailable(self._kafka, error) from error
        self._log.info("ready", action="service.ready")
        if ready is not None:
            ready.set()
        committer = asyncio.create_task(self._commit_periodically())
        export_lane_metrics(
            self._router.service, self.figures, in_flight_max=self._limits.in_flight_max
        )
        try:
            with self._metrics.exported():
                while not stop.is_set() and not self._lanes.failure.done():
                    await self._poll()
        finally:
            committer.cancel()
            await self._stop()
        if self._lanes.failure.done():
            self._lanes.failure.result()

    async def _poll(self) -> None:
        self._pause_or_resume()
        try:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        except KafkaError as error:
            self._log.warning("poll failed", action="kafka.poll_failed", reason=repr(error))
            await asyncio.sleep(POLL_MS / 1000)
            return
        for partition, records in polled.items():
            if records[0].offset < self._next.get(partition, 0):
                self._restart(partition)
            for raw in records:
                self._submit(partition, raw)
            self._next[partition] = records[-1].offset + 1

    def _restart(self, partition: TopicPartition) -> None:
        """Forget the work of a partition whose offsets begin again: its topic is another one."""
        self._committable.pop(partition, None)
        self._log.warning(
            "the log was created again; its records in work were cancelled",
            action="partitions.lost",
            partition=str(partition),
            records=self._lanes.restart(partition),
        )

    def _submit(self, partition: TopicPartition, raw: ConsumerRecord) -> None:
        record = record_of(raw, prefix=self._kafka.topic_prefix)
        received = try_decode(record)
        if isinstance(received, Envelope):
            self._handler.on_received(received)
        is_new = self._lanes.submit(
            partition=partition,
            offset=record.offset,
            key=lane_key(received),
            handle=record.offset,
            work=lambda: self._router.run(
                received, self._handler, wait_until_owned=self._lanes.wait_until_owned
            ),
            timestamp_s=record.timestamp_s,
        )
        if not is_new:
            WORK_DEDUPLICATED_TOTAL.labels(self._router.service, "in_progress").inc()

    def _end_offset(self, partition: Hashable) -> int | None:
        if partition not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(partition)
        return None if (read_to(self._consumer, partition) or 0) >= (end or 0) else end

    def _pause_or_resume(self) -> None:
        paused: set[TopicPartition] = self._consumer.paused()
        if self._lanes.in_flight >= self._limits.in_flight_max:
            self._consumer.pause(*(self._consumer.assignment() - paused))
        elif paused and self._lanes.in_flight < self._limits.in_flight_max * RESUME_AT:
            self._consumer.resume(*paused)

    def _mark_committable(self, partition: Hashable, offsets: list[int]) -> None:
        assert isinstance(partition, TopicPartition), "this consumer submits TopicPartitions"
        self._committable[partition] = offsets[-1] + 1
        self._metrics.commit_due()

    async def _commit_periodically(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            if not self._is_rebalancing:
                await self._commit()

    async def _commit(self) -> None:
        assigned = self._consumer.assignment()
        offsets = {tp: offset for tp, offset in self._committable.items() if tp in assigned}
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_S):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:  # retried with the next commit
            self._log.warning("commit failed", action="commit.failed", reason=repr(error))
            self._metrics.commit_failed()
            return
        for tp, offset in offsets.items():
            if self._committable.get(tp) == offset:
                del self._committable[tp]
        self._metrics.commit_confirmed(nothing_due=not self._committable)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Suspend the lanes and commit, while this member still owns its partitions."""
        self._is_rebalancing = True
        self._lanes.suspend()
        if revoked:
            await self._commit()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Resume the lanes of `assigned` and cancel those of lost partitions."""
        for partition, count in self._lanes.resume(set(assigned)).items():
            self._log.info(
                "partition lost", action="partitions.lost", partition=str(partition), records=count
            )
        self._committable = {
            tp: offset for tp, offset in self._committable.items() if tp in assigned
        }
        if not self._committable:
            self._metrics.commit_confirmed(nothing_due=True)
        self._next = {}  # records are delivered again from the committed offset
        self._router.parked.forget()
        self._is_rebalancing = False
        self._log.info("partitions assigned", action="partitions.assigned", count=len(assigned))

    async def _stop(self) -> None:
        """Stop in order: finish the lanes within the drain time, commit, leave the group."""
        # 1. polling stopped when the loop ended; 2. finish running work
        cancelled = await self._lanes.drain(self._limits.drain_s)
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S):
                # 3. commit the low watermark
                await self._commit()
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                # 4. leave the group
                await self._consumer.stop()
        self._log.info("consumer stopped", action="consumer.stopped", cancelled=cancelled)


def record_of(raw: ConsumerRecord, *, prefix: str) -> Record:
    """Return aiokafka's record as a `Record`, its topic without the prefix."""
    return Record(
        topic=raw.topic.removeprefix(prefix),
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key,
        value=raw.value,
        headers=tuple(raw.headers),
        timestamp_ms=valid_timestamp(raw.timestamp),
    )


def valid_timestamp(timestamp_ms: int | None) -> int | None:
    """Return the timestamp of a record in milliseconds; None if it is missing or no time."""
    if timestamp_ms is None or not 0 < timestamp_ms < TIMESTAMP_MS_MAX:
        return None
    return timestamp_ms
