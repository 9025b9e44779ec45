"""Requeueing: parked lanes put back in order, each record once, whatever interrupts it.

First the letters are marked in PostgreSQL as this requeue's, then the lanes are opened for its
records alone, then what was parked until that moment is taken along, then the records go back to
the partitions they came from. Nothing that a service does meanwhile can overtake them: see
`shared/kafka/parked_runs.py`. A record says which requeue wrote it and of which letter it is, so
what goes on after an interruption finds in the log what is there, and says the rest.

I/O: Kafka, PostgreSQL, the store.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ops.cli.operator import AuditRow, Operator
from ops.dead_letters.letter import Lane, Letter, letters_in, once, place_of, place_text
from ops.kafka_log.replay_run import Pace, written_since
from services.api.operators import ClaimedLetter, LetterPlace, Resolution
from services.api.operators import dead_letters as rows
from shared.kafka.codec import Headers, Record
from shared.kafka.log_reader import LogReader, OffsetRange
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

MARKERS_AT_ONCE = 16
CHUNK_LETTERS = 2000  # held in memory at once; whole runs, so a longer one is more
Tell = Callable[[int, int], None]  #: records, of how many


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """Where the letters lie, and from where on their records may have been put back."""

    letters: Sequence[OffsetRange]
    origins: Sequence[OffsetRange]  #: as they lay before the first record was put back

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> Self:
        """Those that the audit kept."""
        letters, origins = (
            [OffsetRange(**one) for one in progress[name]] for name in ("spans", "origins")
        )
        return cls(letters=letters, origins=origins)

    def progress(self, *, total: int, copied: int) -> dict[str, Any]:
        """What the audit keeps: from it an interrupted requeue goes on."""
        return {
            "spans": [asdict(span) for span in self.letters],
            "origins": [asdict(span) for span in self.origins],
            "total": total,
            "copied": copied,
        }


@dataclass(kw_only=True)
class Requeue:
    """One requeue, whose number its audit row gives."""

    operator: Operator
    reader: LogReader
    row: AuditRow
    stretches: Stretches
    lanes: list[list[Letter]]

    async def begin(self) -> None:
        """Mark the letters, all or none: from here on they are this requeue's."""
        await self.row.save_progress(self.stretches.progress(total=self.total, copied=0))
        await self._mark(letter for lane in self.lanes for letter in lane)

    async def run(self, *, rate: float | None, tell: Tell) -> int:
        """Put them back, from where an earlier try of the same stopped; how many there are now.

        `rate`: records a second, at most.

        Raises:
            RetryableError: a server went away; the same goes on when it is back.
        """
        there = await self._there()
        untouched = [
            lane for lane in self.lanes if not any(letter.place in there for letter in lane)
        ]
        await self._open(untouched)
        await self._take_late(untouched)
        publisher = Publisher(self.operator.kafka, source="ops", clock=self.operator.clock)
        await publisher.start()
        pace, total, copied = Pace(rate), self.total, 0
        try:
            for chunk in _chunks(self.lanes):
                async for count in self._put_back(chunk, there, publisher, pace):
                    copied += count
                    await self.row.save_progress(
                        self.stretches.progress(total=total, copied=copied)
                    )
                    tell(copied, total)
        finally:
            await publisher.stop()
        return copied

    @property
    def total(self) -> int:
        """How many records there are to put back."""
        return sum(len(list(once(lane))) for lane in self.lanes)

    async def _mark(self, letters: Iterable[Letter]) -> None:
        marked = [
            ClaimedLetter(
                place=one.place,
                job_id=one.lane and one.lane.job_id,
                run=one.lane and one.lane.run,
            )
            for one in letters
        ]
        async with self.operator.database.transaction() as connection:
            await rows.claim(
                connection,
                self.operator.kafka.epoch,
                marked,
                resolution=Resolution.REQUEUED,
                action=self.row.number,
                now=self.operator.clock.now(),
            )

    async def _there(self) -> set[LetterPlace]:
        """The letters whose records are back: by their rows, and by what lies in the log."""
        topics = {span.topic for span in self.stretches.letters}
        async with self.operator.database.connection() as connection:
            fates = await rows.resolutions(connection, self.operator.kafka.epoch, topics)
        found = {
            place for place, one in fates.items() if one.is_done and one.action == self.row.number
        }
        for span in self.stretches.origins:
            async for records in self.reader.read(await written_since(self.reader, span)):
                for record in records:
                    place = place_of(record.header(REQUEUE_OF) or "")
                    if record.header(REQUEUE_ID) == str(self.row.number) and place is not None:
                        found.add(place)
        return found

    async def _open(self, lanes: Sequence[Sequence[Letter]]) -> None:
        """Open lanes of which nothing was put back yet; any other has its fate in the log."""
        parked, number = ParkedRuns(self.operator.store), str(self.row.number)
        names = [lane[0].lane for lane in lanes if lane[0].lane is not None]
        for at in range(0, len(names), MARKERS_AT_ONCE):
            await asyncio.gather(
                *(
                    parked.open_for(lane.job_id, lane.run, lane.topic, requeue=number)
                    for lane in names[at : at + MARKERS_AT_ONCE]
                )
            )

    async def _take_late(self, lanes: Sequence[list[Letter]]) -> None:
        """What was parked behind these lanes since they were looked at, before they were open."""
        ours = {lane[0].lane: lane for lane in lanes if lane[0].lane is not None}
        known = {letter.place for lane in lanes for letter in lane}
        late: list[Letter] = []
        for span in self.stretches.letters:
            since = await written_since(self.reader, span)
            async for letter in letters_in(self.reader, [since], tell=lambda *_: None):
                if letter.lane in ours and letter.place not in known:
                    ours[letter.lane].append(letter)
                    late.append(letter)
        if late:
            await self._mark(late)

    async def _put_back(
        self,
        lanes: Sequence[Sequence[Letter]],
        there: set[LetterPlace],
        publisher: Publisher,
        pace: Pace,
    ) -> AsyncIterator[int]:
        """Put back what is not there of these lanes; how many more are there now, each time."""
        wanted = {letter.place for lane in lanes for letter in once(lane)} - there
        found = {(one.topic, one.partition, one.offset): one async for one in self._read(wanted)}
        for place in sorted(wanted - set(found)):
            self.operator.report(f"{place_text(place)} is gone by its age: left out")
        lines = [[one for one in once(lane) if one.place in there | set(found)] for lane in lanes]
        copies = [
            copy_of(found[letter.place], letter, number=self.row.number, is_last=letter is line[-1])
            for line in lines
            for letter in line
            if letter.place in found
        ]
        yield sum(map(len, lines)) - len(copies)
        for at in range(0, len(copies), pace.batch):
            batch = copies[at : at + pace.batch]
            await pace.before(len(batch))
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
        """The records of these letters."""
        offsets: dict[tuple[str, int], set[int]] = {}
        for topic, number, offset in places:
            offsets.setdefault((topic, number), set()).add(offset)
        for (topic, number), some in sorted(offsets.items()):
            [there] = [one for one in await self.reader.ranges(topic) if one.partition == number]
            span = OffsetRange(topic=topic, partition=number, start=min(some), end=max(some) + 1)
            async for records in self.reader.read(span.since(there.start)):
                for record in records:
                    if record.offset in some:
                        yield record


def copy_of(record: Record, letter: Letter, *, number: int, is_last: bool) -> Record:
    """The record as it was, on its way back to where it came from."""
    assert letter.origin is not None, "only letters of ours go back"
    assert letter.first is not None, "where it came from, at least"
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
    own: Headers = tuple(one for one in record.headers if not one[0].startswith("dlq-"))
    return Record(
        topic=topic,
        partition=partition,
        offset=0,
        key=record.key,
        value=record.value,
        headers=own + tuple((name, value.encode()) for name, value in marks.items()),
    )


async def standing(operator: Operator, lanes: Iterable[Lane]) -> dict[Lane, ParkedLane | None]:
    """How these lanes stand: None of one that is not parked."""
    parked, names = ParkedRuns(operator.store), list(lanes)
    found: dict[Lane, ParkedLane | None] = {}
    for at in range(0, len(names), MARKERS_AT_ONCE):
        some = names[at : at + MARKERS_AT_ONCE]
        told = await asyncio.gather(*(parked.state(one.job_id, one.run, one.topic) for one in some))
        found |= dict(zip(some, told, strict=True))
    return found


def _chunks(lanes: Sequence[Sequence[Letter]]) -> list[list[Sequence[Letter]]]:
    """Whole lanes, as many as go together; those that lie close to one another first."""
    chunks: list[list[Sequence[Letter]]] = [[]]
    count = 0
    for lane in sorted(lanes, key=lambda one: min(letter.place for letter in one)):
        if count and count + len(lane) > CHUNK_LETTERS:
            chunks.append([])
            count = 0
        chunks[-1].append(lane)
        count += len(lane)
    return chunks
