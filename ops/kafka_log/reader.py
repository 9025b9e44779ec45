"""Reading: records of the log as they lie there, without a group: nothing is committed.

I/O: Kafka.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
)

from shared.errors import RetryableError
from shared.kafka.client import connection_options
from shared.kafka.codec import Record
from shared.kafka.consumer import record_of
from shared.settings import KafkaSettings

ANSWER_S = 30.0  # for the broker's next answer
CLOSE_S = 3.0
# At the end of one partition a fetch waits this long, and the next partition with it.
FETCH_WAIT_MS = 20
AGAIN_S = 0.2
POLL_MS = 1000
BATCH_RECORDS = 2000
COORDINATOR_COMES = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """A stretch of one partition: from `start` to before `end`."""

    topic: str  #: without prefix
    partition: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """How many offsets; not all of them need have a record."""
        return max(self.end - self.start, 0)

    def since(self, start: int) -> "Span":
        """What of it begins at `start`."""
        first = max(self.start, start)
        return Span(topic=self.topic, partition=self.partition, start=first, end=self.end)


@dataclass(kw_only=True)
class LogReader:
    """Reads any stretch of any topic."""

    settings: KafkaSettings
    consumer: AIOKafkaConsumer
    admin: AIOKafkaAdminClient

    async def spans(self, topic: str) -> list[Span]:
        """What lies in each partition of `topic` now; empty: there is no such topic."""
        return (await self.all_spans([topic]))[topic]

    async def all_spans(self, topics: Sequence[str]) -> dict[str, list[Span]]:
        """The same of several topics, for the price of one."""
        names = {self._full(topic): topic for topic in topics}
        async with _answering():
            # of all topics: asked for one that is not there, some brokers make it
            listed = await self.admin.describe_topics()
            places = sorted(
                TopicPartition(one["topic"], part["partition"])
                for one in listed
                if one["topic"] in names
                for part in one["partitions"]
            )
            firsts = await self._firsts(places)
            ends = await self.consumer.end_offsets(places) if places else {}
        found: dict[str, list[Span]] = {topic: [] for topic in topics}
        for one in places:
            topic = names[one.topic]
            found[topic].append(
                Span(topic=topic, partition=one.partition, start=firsts[one], end=ends[one])
            )
        return found

    async def _firsts(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets; side by side, for each topic that the client meets takes 0.1 s."""
        topics = {one.topic for one in places}
        found = await asyncio.gather(
            *(
                self.consumer.beginning_offsets([one for one in places if one.topic == topic])
                for topic in topics
            )
        )
        return {place: offset for one in found for place, offset in one.items()}

    async def first_at(self, span: Span, moment: datetime) -> int:
        """The first offset of `span` that may be from `moment` or later."""
        place = TopicPartition(self._full(span.topic), span.partition)
        async with _answering():
            found = await self.consumer.offsets_for_times({place: int(moment.timestamp() * 1000)})
        at = found.get(place)
        # the embedded broker cannot look times up: whoever asks looks at the records too
        return span.start if at is None else max(span.start, at.offset)

    async def committed(self, group: str, spans: Sequence[Span]) -> dict[tuple[str, int], int]:
        """Where `group` (without prefix) stands, by topic with prefix and partition."""
        places = [TopicPartition(self._full(span.topic), span.partition) for span in spans]
        async with _answering():
            while True:
                try:
                    found = await self.admin.list_consumer_group_offsets(
                        self.settings.topic_prefix + group, partitions=places
                    )
                except COORDINATOR_COMES:
                    await asyncio.sleep(AGAIN_S)
                else:
                    return {
                        (place.topic, place.partition): max(at.offset, 0)
                        for place, at in found.items()
                    }

    async def read(self, span: Span) -> AsyncIterator[Sequence[Record]]:
        """Everything in `span`, in order, some records at a time.

        Raises:
            KafkaError: the records went away (retention).
            RetryableError: the broker did.
        """
        if not span.length:
            return
        place = TopicPartition(self._full(span.topic), span.partition)
        self.consumer.assign([place])
        self.consumer.seek(place, span.start)
        at = span.start
        while at < span.end:
            async with _answering():
                polled: dict[TopicPartition, list[object]] = {}
                while not polled and await self.consumer.position(place) < span.end:
                    polled = await self.consumer.getmany(
                        place, timeout_ms=POLL_MS, max_records=BATCH_RECORDS
                    )
            records = [
                record_of(raw, prefix=self.settings.topic_prefix) for raw in polled.get(place, [])
            ]
            if wanted := [record for record in records if record.offset < span.end]:
                yield wanted
            at = records[-1].offset + 1 if records else span.end

    def _full(self, topic: str) -> str:
        return self.settings.topic_prefix + topic


@asynccontextmanager
async def reading(settings: KafkaSettings) -> AsyncIterator[LogReader]:
    """A reader, connected.

    Raises:
        KafkaError: no broker answers.
    """
    consumer = AIOKafkaConsumer(
        **connection_options(settings),
        client_id="segue-ops",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    admin = AIOKafkaAdminClient(**connection_options(settings), client_id="segue-ops")
    try:
        await consumer.start()
        await admin.start()
        yield LogReader(settings=settings, consumer=consumer, admin=admin)
    finally:
        for close in (admin.close, consumer.stop):
            # a broker that is gone lets a stop end in an error, or in a cancellation of its own
            with suppress(KafkaError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_S):
                    await close()


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Wait for the broker, and not for ever."""
    try:
        async with asyncio.timeout(ANSWER_S):
            yield
    except TimeoutError as error:
        raise RetryableError(f"Kafka did not answer within {ANSWER_S:g} s") from error
