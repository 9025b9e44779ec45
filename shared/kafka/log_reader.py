"""Reads ranges of Kafka topics without a consumer group: nothing is committed.

I/O: Kafka.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
)

from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.kafka.client import READ_COMMITTED, connection_options
from shared.kafka.codec import Record
from shared.kafka.consumer import record_of
from shared.processing.retry import RetryPolicy, retrying
from shared.settings import KafkaSettings

RESPONSE_TIMEOUT_S = 30.0  # for the broker's next response
CLOSE_TIMEOUT_S = 3.0
# At the end of one partition a fetch waits this long, and the next partition with it.
FETCH_WAIT_MS = 20
POLL_MS = 1000
BATCH_RECORDS = 2000
COORDINATOR_STARTING = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError)
COORDINATOR_RETRY = RetryPolicy(first_s=0.2, max_s=0.2, attempts_max=None)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OffsetRange:
    """Offsets of one partition, from `start` to before `end`."""

    topic: str  #: without prefix
    partition: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Return the number of offsets; compaction and transactions leave some without a record."""
        return max(self.end - self.start, 0)

    def since(self, start: int) -> "OffsetRange":
        """Return the part of the range from offset `start` on."""
        first = max(self.start, start)
        return OffsetRange(topic=self.topic, partition=self.partition, start=first, end=self.end)


@dataclass(kw_only=True)
class LogReader:
    """Reads any offset range of any topic."""

    settings: KafkaSettings
    consumer: AIOKafkaConsumer
    admin: AIOKafkaAdminClient

    async def ranges(self, topic: str) -> list[OffsetRange]:
        """Return what each partition of `topic` stores now; empty if the topic does not exist."""
        return (await self.ranges_of([topic]))[topic]

    async def ranges_of(self, topics: Sequence[str]) -> dict[str, list[OffsetRange]]:
        """Return what each partition of several topics stores now, in one request per kind."""
        names = {self._full(topic): topic for topic in topics}
        async with _response_timeout():
            # describes all topics: some brokers create a topic that a client asks for by name
            descriptions = await self.admin.describe_topics()
            partitions = sorted(
                TopicPartition(topic["topic"], partition["partition"])
                for topic in descriptions
                if topic["topic"] in names
                for partition in topic["partitions"]
            )
            starts = await self._start_offsets(partitions)
            ends = await self.consumer.end_offsets(partitions) if partitions else {}
        ranges: dict[str, list[OffsetRange]] = {topic: [] for topic in topics}
        for partition in partitions:
            topic = names[partition.topic]
            ranges[topic].append(
                OffsetRange(
                    topic=topic,
                    partition=partition.partition,
                    start=starts[partition],
                    end=ends[partition],
                )
            )
        return ranges

    async def _start_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the first offsets; topics in parallel, as each new one costs the client 0.1 s."""
        topics = {partition.topic for partition in partitions}
        per_topic = await asyncio.gather(
            *(
                self.consumer.beginning_offsets(
                    [partition for partition in partitions if partition.topic == topic]
                )
                for topic in topics
            )
        )
        return {partition: offset for starts in per_topic for partition, offset in starts.items()}

    async def first_at(self, offsets: OffsetRange, moment: datetime) -> int:
        """Return the first offset of the range that may be from `moment` or later."""
        partition = TopicPartition(self._full(offsets.topic), offsets.partition)
        async with _response_timeout():
            offsets_at = await self.consumer.offsets_for_times(
                {partition: int(moment.timestamp() * 1000)}
            )
        at = offsets_at.get(partition)
        # the embedded broker cannot look times up: callers check each record's timestamp too
        return offsets.start if at is None else max(offsets.start, at.offset)

    async def since(self, ranges: Sequence[OffsetRange], moment: datetime) -> Sequence[OffsetRange]:
        """Return the parts of the ranges that may be from `moment` or later, in one request."""
        partitions = {
            TopicPartition(self._full(offsets.topic), offsets.partition): offsets
            for offsets in ranges
            if offsets.length
        }
        if not partitions:
            return []
        async with _response_timeout():
            offsets_at = await self.consumer.offsets_for_times(
                dict.fromkeys(partitions, int(moment.timestamp() * 1000))
            )
        parts = []
        for partition, offsets in partitions.items():
            at = offsets_at.get(partition)  # None: as in `first_at`
            parts.append(offsets if at is None else offsets.since(at.offset))
        return parts

    async def first_timestamp(self, offsets: OffsetRange) -> datetime | None:
        """Return the timestamp of the first record of the range; None if it has no record."""
        async for records in self.read(offsets):
            # a record that cannot be decoded has no timestamp
            known = next((record.timestamp_s for record in records if record.timestamp_s), None)
            return SystemClock().now() if known is None else datetime.fromtimestamp(known, UTC)
        return None

    async def committed(
        self, group: str, ranges: Sequence[OffsetRange]
    ) -> dict[tuple[str, int], int]:
        """Return the committed offsets of `group` (no prefix), by full topic and partition."""
        partitions = [
            TopicPartition(self._full(offsets.topic), offsets.partition) for offsets in ranges
        ]
        async with _response_timeout():
            committed = await retrying(
                lambda: self.admin.list_consumer_group_offsets(
                    self.settings.topic_prefix + group, partitions=partitions
                ),
                policy=COORDINATOR_RETRY,
                clock=SystemClock(),
                errors=COORDINATOR_STARTING,
            )
        return {
            (partition.topic, partition.partition): max(at.offset, 0)
            for partition, at in committed.items()
        }

    async def read(self, offsets: OffsetRange) -> AsyncIterator[Sequence[Record]]:
        """Yield every record of the range in order, in batches.

        Raises:
            KafkaError: retention removed the records.
            RetryableError: the broker is unavailable.
        """
        if not offsets.length:
            return
        partition = TopicPartition(self._full(offsets.topic), offsets.partition)
        self.consumer.assign([partition])
        self.consumer.seek(partition, offsets.start)
        position = offsets.start
        while position < offsets.end:
            async with _response_timeout():
                polled: dict[TopicPartition, list[object]] = {}
                while not polled and await self.consumer.position(partition) < offsets.end:
                    polled = await self.consumer.getmany(
                        partition, timeout_ms=POLL_MS, max_records=BATCH_RECORDS
                    )
            records = [
                record_of(raw, prefix=self.settings.topic_prefix)
                for raw in polled.get(partition, [])
            ]
            if in_range := [record for record in records if record.offset < offsets.end]:
                yield in_range
            position = records[-1].offset + 1 if records else offsets.end

    async def read_together(self, ranges: Sequence[OffsetRange]) -> AsyncIterator[Sequence[Record]]:
        """Yield every record of several ranges, in batches of one partition, each in order.

        All partitions are fetched in the same requests: many short ranges take as long as one.

        Raises:
            KafkaError: retention removed the records.
            RetryableError: the broker is unavailable.
        """
        left = {
            TopicPartition(self._full(offsets.topic), offsets.partition): offsets.end
            for offsets in ranges
            if offsets.length
        }
        self.consumer.assign(list(left))
        for offsets in ranges:
            if offsets.length:
                partition = TopicPartition(self._full(offsets.topic), offsets.partition)
                self.consumer.seek(partition, offsets.start)
        while left:
            polled: dict[TopicPartition, list[object]] = {}
            async with _response_timeout():
                while left and not polled:
                    polled = await self.consumer.getmany(
                        *left, timeout_ms=POLL_MS, max_records=BATCH_RECORDS
                    )
                    for partition, end in list(left.items()):
                        if (
                            partition not in polled
                            and await self.consumer.position(partition) >= end
                        ):
                            del left[partition]
            for partition, raws in polled.items():
                records = [record_of(raw, prefix=self.settings.topic_prefix) for raw in raws]
                end = left[partition]
                if in_range := [record for record in records if record.offset < end]:
                    yield in_range
                if records[-1].offset + 1 >= end:
                    del left[partition]

    def _full(self, topic: str) -> str:
        return self.settings.topic_prefix + topic


@asynccontextmanager
async def open_log_reader(settings: KafkaSettings, *, client_id: str) -> AsyncIterator[LogReader]:
    """Connect a reader and close it at the end.

    Raises:
        KafkaError: no broker responds.
    """
    consumer = AIOKafkaConsumer(
        **connection_options(settings),
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=READ_COMMITTED,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    admin = AIOKafkaAdminClient(**connection_options(settings), client_id=client_id)
    try:
        await consumer.start()
        await admin.start()
        yield LogReader(settings=settings, consumer=consumer, admin=admin)
    finally:
        for close in (admin.close, consumer.stop):
            # without a broker, stopping ends in an error, or in a cancellation of its own
            with suppress(KafkaError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await close()


@asynccontextmanager
async def _response_timeout() -> AsyncIterator[None]:
    """Wait for the broker, at most `RESPONSE_TIMEOUT_S`."""
    try:
        async with asyncio.timeout(RESPONSE_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise RetryableError(f"Kafka did not respond within {RESPONSE_TIMEOUT_S:g} s") from error
