"""Rebuilding: every event of the log, from its beginning, into a second set of rows.

The same code applies the same records, so what differs afterwards differs for a reason: rows
that somebody edited, records that an older version passed over. The live api serves all the
while; its projection alone is held for the moment in which both sets stand at the same offsets
and are compared. What of the log was removed by age is known by where partitions begin: jobs
older than that are left as they are.

I/O: Kafka, PostgreSQL.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from services.api.database import Connection, Database, offsets
from services.api.database.operators import rebuild
from services.api.database.operators.rebuild import SCHEMA, TableComparison
from services.api.projection.apply_batch import Applier, Batch
from services.api.settings import ApiSettings
from shared.clock import Clock
from shared.contract.events import VideoStitched
from shared.contract.topics import RETENTION_DAYS
from shared.errors import RetryableError, SegueError
from shared.kafka.client import connection_options
from shared.kafka.consumer import record_of
from shared.telemetry.log import Logger

BATCH_RECORDS = 2000
READ_S = 30.0  # for the next records of a log that has some
HELD_RECORDS = 2000  # no more than these are read while the live projection is held
ROUNDS_MAX = 20
SKEW = timedelta(hours=1)  # between the clocks of brokers and services
TABLES = ("jobs", "runs", "scenes")
Tell = Callable[[int, int], None]  #: records read, of how many


class RebuildError(SegueError):
    """It cannot be rebuilt as things stand; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What came of it."""

    epoch: str
    records: int
    partitions_cut: int  #: partitions whose first records were removed by age
    jobs_left: int  #: jobs older than the log, which were not looked at
    tables: Mapping[str, TableComparison]
    applied: bool

    @property
    def identical(self) -> bool:
        """Whether every row that the log speaks of says what the log says."""
        return not any(table.different or table.missing for table in self.tables.values())


@dataclass(kw_only=True)
class ProjectionRebuild:
    """One rebuild."""

    settings: ApiSettings
    clock: Clock
    log: Logger
    tell: Tell

    async def run(self, *, apply: bool) -> RebuildReport:
        """Read everything, compare, and write what differs if `apply`.

        Raises:
            RebuildError: another rebuild runs, or the log is not the one that the rows are from.
            RetryableError: Kafka or PostgreSQL is away.
        """
        async with AsyncExitStack() as stack:
            live = Database(self.settings.database)
            stack.push_async_callback(live.close)
            await live.open()
            holder = await stack.enter_async_context(live.dedicated())
            if not await rebuild.try_lock(holder):
                raise RebuildError("another rebuild runs on this database")
            async with live.transaction() as one:
                self._epoch = await rebuild.newest_epoch(one) or self.settings.kafka.epoch
                self._live = await rebuild.make(one)
            stack.push_async_callback(_dropped, live)
            second = Database(self.settings.database, schema=SCHEMA)
            stack.push_async_callback(second.close)
            await second.open()
            try:
                return await self._rebuilt(live, second, apply=apply)
            except (KafkaError, OSError, TimeoutError) as error:
                raise RetryableError(f"Kafka: {error!r}") from error

    async def _rebuilt(self, live: Database, second: Database, *, apply: bool) -> RebuildReport:
        consumer = AIOKafkaConsumer(
            **connection_options(self.settings.kafka), enable_auto_commit=False
        )
        await consumer.start()
        try:
            async with live.connection() as one:
                begun = await rebuild.stored_positions(one, self._epoch, hold=False)
            reading = _Reading(consumer, self._applier(second), tell=self.tell)
            since = await reading.begin(begun, now=self.clock.now())
            for _ in range(ROUNDS_MAX):
                async with live.connection() as one:
                    standing = await rebuild.stored_positions(one, self._epoch, hold=False)
                if reading.done and reading.left(standing) <= HELD_RECORDS:
                    break
                await reading.read_to(standing)
            async with live.transaction() as one:
                await reading.read_to(await rebuild.stored_positions(one, self._epoch, hold=True))
                return await self._compared(one, reading, since=since, apply=apply)
        finally:
            await consumer.stop()

    async def _compared(
        self, one: Connection, reading: "_Reading", *, since: datetime | None, apply: bool
    ) -> RebuildReport:
        left = await rebuild.choose(one, self._live, since=since)
        if apply:
            await rebuild.lock_jobs(one, self._live)
        tables = {table: await rebuild.compare(one, self._live, table) for table in TABLES}
        if apply:
            await rebuild.write(one, self._live, now=self.clock.now())
        return RebuildReport(
            epoch=self._epoch,
            records=reading.done,
            partitions_cut=reading.partitions_cut,
            jobs_left=left,
            tables=tables,
            applied=apply,
        )

    def _applier(self, second: Database) -> Applier:
        kafka = self.settings.kafka.model_copy(update={"epoch": self._epoch})
        settings = self.settings.model_copy(update={"kafka": kafka})
        return Applier(database=second, settings=settings, clock=self.clock, log=self.log)


class _Reading:
    """Reads the log up to given offsets, each record once."""

    def __init__(self, consumer: AIOKafkaConsumer, applier: Applier, *, tell: Tell) -> None:
        self._consumer = consumer
        self._applier = applier
        self._epoch = applier.settings.kafka.epoch
        self._prefix = applier.settings.kafka.topic_prefix
        self._tell = tell
        self._next: dict[TopicPartition, int] = {}
        self.done = 0
        self.partitions_cut = 0

    async def begin(
        self, standing: Mapping[tuple[str, int], int], *, now: datetime
    ) -> datetime | None:
        """Go to the beginning of the log; since when it is whole, None: since ever.

        Raises:
            RebuildError: the log ends before the live projection does.
        """
        places = _of_runs(standing, self._prefix)
        if not places:
            return None
        self._consumer.assign(list(places))
        firsts = await self._consumer.beginning_offsets(list(places))
        ends = await self._consumer.end_offsets(list(places))
        for place, end in places.items():
            if end > ends[place]:
                raise RebuildError(
                    f"{place.topic}/{place.partition} ends at {ends[place]}, and {end} was read of "
                    f"it: this is not the log that the rows of epoch {self._epoch} are from"
                )
        async with self._applier.database.transaction() as one:
            names = [(place.topic, place.partition) for place in places]
            await offsets.stored(one, self._epoch, names)
            for place, name in zip(places, names, strict=True):
                await offsets.advance(one, self._epoch, name, start=0, end=firsts[place])
                self._next[place] = firsts[place]
        for place, first in firsts.items():
            self._consumer.seek(place, first)
        cut = {place: ends[place] - first for place, first in firsts.items() if first}
        self.partitions_cut = len(cut)
        since = [await self._oldest(place, held, now=now) for place, held in cut.items()]
        for place in cut:
            self._consumer.seek(place, firsts[place])
        return max(since) + SKEW if since else None

    def left(self, standing: Mapping[tuple[str, int], int]) -> int:
        """How many offsets there are still to be read."""
        wanted = _of_runs(standing, self._prefix)
        return sum(max(end - self._next.get(place, 0), 0) for place, end in wanted.items())

    async def read_to(self, standing: Mapping[tuple[str, int], int]) -> None:
        """Apply everything before these offsets."""
        wanted = _of_runs(standing, self._prefix)
        if new := wanted.keys() - self._next.keys():
            raise RebuildError(f"{min(new).topic} got partitions meanwhile: begin again")
        total = self.done + self.left(standing)
        open_ = {place: end for place, end in wanted.items() if self._next[place] < end}
        while open_:
            async with asyncio.timeout(READ_S):
                polled = await self._consumer.getmany(
                    *open_, timeout_ms=1000, max_records=BATCH_RECORDS
                )
            for place, raws in polled.items():
                await self._apply(place, [raw for raw in raws if raw.offset < open_[place]])
                if raws and raws[-1].offset >= open_[place]:
                    self._consumer.seek(place, self._next[place])
            for place, end in list(open_.items()):
                if max(self._next[place], await self._consumer.position(place)) >= end:
                    del open_[place]
            self._tell(self.done, total)

    async def _apply(self, place: TopicPartition, raws: list[object]) -> None:
        if not raws:
            return
        records = tuple(record_of(raw, prefix=self._prefix) for raw in raws)
        end = records[-1].offset + 1
        batch = Batch(
            topic=place.topic,
            partition=place.partition,
            start=self._next[place],
            end=end,
            records=records,
        )
        await self._applier.apply(batch)
        self._next[place] = end
        self.done += len(records)

    async def _oldest(self, place: TopicPartition, held: int, *, now: datetime) -> datetime:
        """Everything written since then is still there; `held` is how many offsets there are."""
        if not held:  # all of it has gone by age
            return now - timedelta(days=RETENTION_DAYS)
        async with asyncio.timeout(READ_S):
            first = await self._consumer.getone(place)
        return datetime.fromtimestamp(max(first.timestamp, 0) / 1000, UTC)


def _of_runs(standing: Mapping[tuple[str, int], int], prefix: str) -> dict[TopicPartition, int]:
    """The partitions that speak of runs; what upstream says of a job is a request, no fact."""
    return {
        TopicPartition(topic, number): end
        for (topic, number), end in standing.items()
        if topic.startswith(prefix) and topic != prefix + VideoStitched.kind
    }


async def _dropped(live: Database) -> None:
    async with live.transaction() as one:
        await rebuild.drop(one)
