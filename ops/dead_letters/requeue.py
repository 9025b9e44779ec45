"""Requeues parked lanes in order, each record once, resumable after an interruption.

First the letters are claimed in PostgreSQL for this requeue, then the lanes are opened for its
records only, then letters parked until that moment are added, then the records are published to
the partitions they came from. No record of a service can overtake them: see
`shared/kafka/parked_runs.py`. Each record names its requeue and its letter, so a resumed requeue
finds in the log what is already published, and publishes the rest.

I/O: Kafka, PostgreSQL, the store.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ops.cli.operator import AuditRow, Operator
from ops.cli.progress import ProgressReporter
from ops.dead_letters.letter import (
    DeadLetter,
    Lane,
    in_order_once,
    place_text,
    read_letters,
)
from ops.kafka_log.republish import RateLimit, appended_since
from ops.kafka_log.selection import place_of
from services.api.operators import ClaimedLetter, LetterPlace, Resolution
from services.api.operators import dead_letters as rows
from shared.kafka.codec import Headers, Record
from shared.kafka.log_reader import LogReader, OffsetRange
from shared.kafka.original_records import restore_original
from shared.kafka.parked_runs import (
    FIRST_FAILED_AT,
    FIRST_ORIGIN,
    REQUEUE_ID,
    REQUEUE_LAST,
    REQUEUE_OF,
    REQUEUES,
    ParkedLane,
    ParkedRuns,
)
from shared.kafka.producer import Publisher

PARALLEL_LANES = 16
CHUNK_LETTERS = 2000  # held in memory at once; a longer lane is one chunk


@dataclass(frozen=True, kw_only=True)
class RequeueRanges:
    """Where the letters are stored, and after which offsets their records may be requeued."""

    letters: Sequence[OffsetRange]
    origins: Sequence[OffsetRange]  #: as of before the first record was requeued

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> Self:
        """Return the ranges from the audit's progress."""
        letters, origins = (
            [OffsetRange(**offsets) for offsets in progress[name]] for name in ("spans", "origins")
        )
        return cls(letters=letters, origins=origins)

    def progress(self, *, total: int, copied: int) -> dict[str, Any]:
        """Return the progress for the audit; an interrupted requeue resumes from it."""
        return {
            "spans": [asdict(offsets) for offsets in self.letters],
            "origins": [asdict(offsets) for offsets in self.origins],
            "total": total,
            "copied": copied,
        }


@dataclass(kw_only=True)
class Requeue:
    """One requeue; the number of its audit row identifies it."""

    operator: Operator
    reader: LogReader
    row: AuditRow
    ranges: RequeueRanges
    lanes: list[list[DeadLetter]]

    async def claim(self) -> None:
        """Claim the letters for this requeue, all or none."""
        await self.row.save_progress(self.ranges.progress(total=self.total, copied=0))
        await self._claim(letter for lane in self.lanes for letter in lane)

    async def run(self, *, rate: float | None, on_progress: ProgressReporter) -> int:
        """Publish the records that are missing; return how many are requeued now.

        `rate`: records per second at most.

        Raises:
            RetryableError: a server is unavailable; run the same requeue again to resume.
        """
        requeued = await self._find_requeued()
        unopened = [
            lane for lane in self.lanes if not any(letter.place in requeued for letter in lane)
        ]
        await self._open(unopened)
        await self._add_late_letters(unopened)
        # a record may be larger than the limit of its topic, as its producer compressed it
        publisher = Publisher(
            self.operator.kafka, source="ops", clock=self.operator.clock, is_compressed=True
        )
        await publisher.start()
        limit, total, copied = RateLimit(rate), self.total, 0
        try:
            for chunk in _chunks(self.lanes):
                async for count in self._publish(chunk, requeued, publisher, limit):
                    copied += count
                    await self.row.save_progress(self.ranges.progress(total=total, copied=copied))
                    on_progress(copied, total)
        finally:
            await publisher.stop()
        return copied

    @property
    def total(self) -> int:
        """Return the number of records to requeue."""
        return sum(len(list(in_order_once(lane))) for lane in self.lanes)

    async def _claim(self, letters: Iterable[DeadLetter]) -> None:
        async with self.operator.database.transaction() as connection:
            await rows.claim(
                connection,
                self.operator.kafka.epoch,
                [claimed_letter(letter) for letter in letters],
                resolution=Resolution.REQUEUED,
                action=self.row.number,
                now=self.operator.clock.now(),
            )

    async def _find_requeued(self) -> set[LetterPlace]:
        """Return the letters that are already requeued, from their rows and from the log."""
        topics = {offsets.topic for offsets in self.ranges.letters}
        async with self.operator.database.connection() as connection:
            resolved = await rows.resolutions(connection, self.operator.kafka.epoch, topics)
        requeued = {
            place
            for place, resolution in resolved.items()
            if resolution.is_done and resolution.action == self.row.number
        }
        for offsets in self.ranges.origins:
            async for records in self.reader.read(await appended_since(self.reader, offsets)):
                for record in records:
                    place = place_of(record.header(REQUEUE_OF) or "")
                    if record.header(REQUEUE_ID) == str(self.row.number) and place is not None:
                        requeued.add(place)
        return requeued

    async def _open(self, lanes: Sequence[Sequence[DeadLetter]]) -> None:
        """Open the lanes of which no record is requeued yet."""
        parked, number = ParkedRuns(self.operator.store), str(self.row.number)
        names = [lane[0].lane for lane in lanes if lane[0].lane is not None]
        for at in range(0, len(names), PARALLEL_LANES):
            await asyncio.gather(
                *(
                    parked.open_for(lane.job_id, lane.run, lane.topic, requeue=number)
                    for lane in names[at : at + PARALLEL_LANES]
                )
            )

    async def _add_late_letters(self, lanes: Sequence[list[DeadLetter]]) -> None:
        """Add letters that were parked after the lanes were read and before they were opened."""
        opened = {lane[0].lane: lane for lane in lanes if lane[0].lane is not None}
        known = {letter.place for lane in lanes for letter in lane}
        late: list[DeadLetter] = []
        for offsets in self.ranges.letters:
            appended = await appended_since(self.reader, offsets)
            async for letter in read_letters(
                self.reader, self.operator.store, [appended], on_progress=lambda *_: None
            ):
                if letter.lane in opened and letter.place not in known:
                    opened[letter.lane].append(letter)
                    late.append(letter)
        if late:
            await self._claim(late)

    async def _publish(
        self,
        lanes: Sequence[Sequence[DeadLetter]],
        requeued: set[LetterPlace],
        publisher: Publisher,
        limit: RateLimit,
    ) -> AsyncIterator[int]:
        """Publish the missing records of these lanes; yield how many were added each time."""
        missing = {letter.place for lane in lanes for letter in in_order_once(lane)} - requeued
        records = {
            (record.topic, record.partition, record.offset): record
            async for record in self._read(missing)
        }
        for place in sorted(missing - set(records)):
            self.operator.report(f"{place_text(place)} was removed by retention; left out")
        ordered = [
            [letter for letter in in_order_once(lane) if letter.place in requeued | set(records)]
            for lane in lanes
        ]
        copies = [
            requeued_record(
                records[letter.place],
                letter,
                number=self.row.number,
                is_last=letter is lane[-1],
            )
            for lane in ordered
            for letter in lane
            if letter.place in records
        ]
        yield sum(map(len, ordered)) - len(copies)
        for at in range(0, len(copies), limit.batch):
            batch = copies[at : at + limit.batch]
            await limit.wait(len(batch))
            await publisher.send_all(batch)
            yield len(batch)
        async with self.operator.database.connection() as connection:
            await rows.complete(
                connection,
                self.operator.kafka.epoch,
                [letter.place for lane in lanes for letter in lane],
                now=self.operator.clock.now(),
            )

    async def _read(self, places: set[LetterPlace]) -> AsyncIterator[Record]:
        """Yield the stored records at these places."""
        offsets_of: dict[tuple[str, int], set[int]] = {}
        for topic, partition, offset in places:
            offsets_of.setdefault((topic, partition), set()).add(offset)
        for (topic, partition), offsets in sorted(offsets_of.items()):
            [stored] = [
                offsets_range
                for offsets_range in await self.reader.ranges(topic)
                if offsets_range.partition == partition
            ]
            selected = OffsetRange(
                topic=topic, partition=partition, start=min(offsets), end=max(offsets) + 1
            )
            async for records in self.reader.read(selected.since(stored.start)):
                for record in records:
                    if record.offset in offsets:
                        yield await restore_original(self.operator.store, record)


def claimed_letter(letter: DeadLetter) -> ClaimedLetter:
    """Return the row that claims `letter` for a command."""
    return ClaimedLetter(
        place=letter.place,
        job_id=letter.lane and letter.lane.job_id,
        run=letter.lane and letter.lane.run,
    )


def requeued_record(record: Record, letter: DeadLetter, *, number: int, is_last: bool) -> Record:
    """Return the original record with the headers of requeue `number`."""
    assert letter.origin is not None, "a letter without an origin is never requeued"
    assert letter.first is not None, "the first origin is at least the origin"
    topic, partition, _ = letter.origin
    first_failed = record.header(FIRST_FAILED_AT) or record.header("dlq-failed-at") or ""
    marks = {
        REQUEUE_ID: str(number),
        REQUEUE_OF: place_text(letter.place),
        REQUEUES: str(letter.requeues + letter.failed_itself),
        FIRST_FAILED_AT: first_failed,
        FIRST_ORIGIN: place_text(letter.first),
    }
    if is_last:
        marks[REQUEUE_LAST] = "true"
    original: Headers = tuple(
        header for header in record.headers if not header[0].startswith("dlq-")
    )
    return Record(
        topic=topic,
        partition=partition,
        offset=0,
        key=record.key,
        value=record.value,
        headers=original + tuple((name, value.encode()) for name, value in marks.items()),
    )


async def parked_lanes(operator: Operator, lanes: Iterable[Lane]) -> dict[Lane, ParkedLane | None]:
    """Return the parked state of each lane; None if it is not parked."""
    parked, names = ParkedRuns(operator.store), list(lanes)
    states: dict[Lane, ParkedLane | None] = {}
    for at in range(0, len(names), PARALLEL_LANES):
        some = names[at : at + PARALLEL_LANES]
        answers = await asyncio.gather(
            *(parked.state(lane.job_id, lane.run, lane.topic) for lane in some)
        )
        states |= dict(zip(some, answers, strict=True))
    return states


def _chunks(lanes: Sequence[Sequence[DeadLetter]]) -> list[list[Sequence[DeadLetter]]]:
    """Return whole lanes in groups of about `CHUNK_LETTERS`, neighbours in the log together."""
    chunks: list[list[Sequence[DeadLetter]]] = [[]]
    count = 0
    for lane in sorted(lanes, key=lambda lane: min(letter.place for letter in lane)):
        if count and count + len(lane) > CHUNK_LETTERS:
            chunks.append([])
            count = 0
        chunks[-1].append(lane)
        count += len(lane)
    return chunks
