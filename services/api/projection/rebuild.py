"""Rebuilds the projection from the start of the log into a second set of rows, and compares.

The same code applies the same records, so a difference has a cause: rows that were edited, or
records that an older version skipped. The api keeps serving; only its projection is held while
both sets are at the same offsets and are compared. If retention removed the start of a partition,
jobs older than its first record are left unchanged.

I/O: Kafka, PostgreSQL.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

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
from shared.kafka.codec import Record
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader
from shared.telemetry.log import Logger

HELD_RECORDS = 2000  # at most this many are read while the live projection is held
ROUNDS_MAX = 20
SKEW = timedelta(hours=1)  # clock skew between brokers and services
TABLES = ("jobs", "runs", "scenes")
ReportProgress = Callable[[int, int], None]  #: records read, total


class RebuildError(SegueError):
    """The projection cannot be rebuilt now; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """Result of a rebuild."""

    epoch: str
    records: int
    partitions_cut: int  #: partitions whose first records were removed by retention
    jobs_left: int  #: jobs older than the log, not compared
    tables: Mapping[str, TableComparison]
    applied: bool

    @property
    def identical(self) -> bool:
        """Whether every row matches the log."""
        return not any(table.different or table.missing for table in self.tables.values())


@dataclass(kw_only=True)
class ProjectionRebuild:
    """One rebuild of the projection."""

    settings: ApiSettings
    clock: Clock
    log: Logger
    report_progress: ReportProgress

    async def run(self, *, apply: bool) -> RebuildReport:
        """Read the log, compare, and update different rows if `apply`.

        Raises:
            RebuildError: another rebuild is running, or the rows are from another log.
            RetryableError: Kafka or PostgreSQL is unavailable.
        """
        async with AsyncExitStack() as stack:
            live = Database(self.settings.database)
            stack.push_async_callback(live.close)
            await live.open()
            holder = await stack.enter_async_context(live.dedicated())
            if not await rebuild.try_lock(holder):
                raise RebuildError("another rebuild is running on this database")
            async with live.transaction() as connection:
                self._epoch = await rebuild.newest_epoch(connection) or self.settings.kafka.epoch
                self._live = await rebuild.make(connection)
            stack.push_async_callback(_drop_second_set, live)
            second = Database(self.settings.database, schema=SCHEMA)
            stack.push_async_callback(second.close)
            await second.open()
            try:
                return await self._rebuild(live, second, apply=apply)
            except (KafkaError, OSError, TimeoutError) as error:
                raise RetryableError(f"Kafka: {error!r}") from error

    async def _rebuild(self, live: Database, second: Database, *, apply: bool) -> RebuildReport:
        async with open_log_reader(self.settings.kafka, client_id="segue-rebuild") as reader:
            async with live.connection() as connection:
                positions = await rebuild.stored_positions(connection, self._epoch, hold=False)
            replayed = _LogReplay(
                reader, self._applier(second), report_progress=self.report_progress
            )
            since = await replayed.start(positions, now=self.clock.now())
            for _ in range(ROUNDS_MAX):
                async with live.connection() as connection:
                    positions = await rebuild.stored_positions(connection, self._epoch, hold=False)
                if replayed.done and replayed.remaining(positions) <= HELD_RECORDS:
                    break
                await replayed.read_to(positions)
            async with live.transaction() as connection:
                positions = await rebuild.stored_positions(connection, self._epoch, hold=True)
                await replayed.read_to(positions)
                return await self._compare(connection, replayed, since=since, apply=apply)

    async def _compare(
        self, connection: Connection, replayed: "_LogReplay", *, since: datetime | None, apply: bool
    ) -> RebuildReport:
        left = await rebuild.choose(connection, self._live, since=since)
        if apply:
            await rebuild.lock_jobs(connection, self._live)
        tables = {table: await rebuild.compare(connection, self._live, table) for table in TABLES}
        if apply:
            await rebuild.write(connection, self._live, now=self.clock.now())
        return RebuildReport(
            epoch=self._epoch,
            records=replayed.done,
            partitions_cut=replayed.partitions_cut,
            jobs_left=left,
            tables=tables,
            applied=apply,
        )

    def _applier(self, second: Database) -> Applier:
        kafka = self.settings.kafka.model_copy(update={"epoch": self._epoch})
        settings = self.settings.model_copy(update={"kafka": kafka})
        return Applier(
            database=second,
            settings=settings,
            clock=self.clock,
            log=self.log,
            writes_dead_letters=False,
        )


class _LogReplay:
    """Applies the log up to given offsets to the second set of rows, each record once."""

    def __init__(
        self, reader: LogReader, applier: Applier, *, report_progress: ReportProgress
    ) -> None:
        self._reader = reader
        self._applier = applier
        self._epoch = applier.settings.kafka.epoch
        self._prefix = applier.settings.kafka.topic_prefix
        self._report_progress = report_progress
        self._next: dict[tuple[str, int], int] = {}
        self.done = 0
        self.partitions_cut = 0

    async def start(
        self, positions: Mapping[tuple[str, int], int], *, now: datetime
    ) -> datetime | None:
        """Start at the beginning of the log; return since when it is complete, None: always.

        Raises:
            RebuildError: the log ends before the live projection's position.
        """
        ends = _run_partitions(positions, self._prefix)
        if not ends:
            return None
        topics = sorted({topic for topic, _ in ends})
        stored = {
            (log.topic, log.partition): log
            for ranges in (await self._reader.ranges_of(topics)).values()
            for log in ranges
        }
        for (topic, partition), position in ends.items():
            end = stored[topic, partition].end if (topic, partition) in stored else 0
            if position > end:
                raise RebuildError(
                    f"{self._prefix}{topic}/{partition} ends at offset {end}, but the rows of "
                    f"epoch {self._epoch} were read up to {position}: this is another log"
                )
        self._next = {name: stored[name].start if name in stored else 0 for name in ends}
        async with self._applier.database.transaction() as connection:
            names = [(self._prefix + topic, partition) for topic, partition in ends]
            await offsets.stored(connection, self._epoch, names)
            for name, start in zip(names, self._next.values(), strict=True):
                await offsets.advance(connection, self._epoch, name, start=0, end=start)
        cut = [stored[name] for name, start in self._next.items() if start]
        self.partitions_cut = len(cut)
        since = [await self._complete_since(log, now=now) for log in cut]
        return max(since) + SKEW if since else None

    def remaining(self, positions: Mapping[tuple[str, int], int]) -> int:
        """Return the number of offsets that are still to be read."""
        ends = _run_partitions(positions, self._prefix)
        return sum(max(end - self._next.get(name, 0), 0) for name, end in ends.items())

    async def read_to(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Apply every record before these positions."""
        ends = _run_partitions(positions, self._prefix)
        if new := ends.keys() - self._next.keys():
            raise RebuildError(
                f"partitions were added to {self._prefix}{min(new)[0]} meanwhile; run it again"
            )
        total = self.done + self.remaining(positions)
        for (topic, partition), end in ends.items():
            start = self._next[topic, partition]
            log = OffsetRange(topic=topic, partition=partition, start=start, end=end)
            async for records in self._reader.read(log):
                await self._apply(log, records)
                self._report_progress(self.done, total)

    async def _apply(self, log: OffsetRange, records: Sequence[Record]) -> None:
        name, end = (log.topic, log.partition), records[-1].offset + 1
        batch = Batch(
            topic=self._prefix + log.topic,
            partition=log.partition,
            start=self._next[name],
            end=end,
            records=tuple(records),
        )
        await self._applier.apply(batch)
        self._next[name] = end
        self.done += len(records)

    async def _complete_since(self, log: OffsetRange, *, now: datetime) -> datetime:
        """Return the time since which the partition has every record."""
        first = await self._reader.first_timestamp(log)
        return first or now - timedelta(days=RETENTION_DAYS)  # None: retention removed everything


def _run_partitions(
    positions: Mapping[tuple[str, int], int], prefix: str
) -> dict[tuple[str, int], int]:
    """Return positions by topic without prefix; `video.stitched` is a request, no fact of a run."""
    return {
        (topic.removeprefix(prefix), number): end
        for (topic, number), end in positions.items()
        if topic.startswith(prefix) and topic != prefix + VideoStitched.kind
    }


async def _drop_second_set(live: Database) -> None:
    async with live.transaction() as connection:
        await rebuild.drop(connection)
