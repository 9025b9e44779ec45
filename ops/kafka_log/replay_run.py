"""Replaying: records said again on their own topics, in order, once, whatever interrupts it.

A copy has the key, the value, the partition and the headers of its origin, and two headers more:
which replay wrote it, and where its origin lies. So the log itself says how far a replay came:
what goes on after an interruption reads there which record was the last, and takes the next.
The stretches are fixed before the first copy: a replay never meets its own writings.

I/O: Kafka; PostgreSQL through the audit.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ops.cli.operator import AuditRow, Operator
from ops.kafka_log.selection import REPLAY_ID, REPLAY_ORIGIN, Picker, Plan, Selection, origin_of
from services.api.operators import run_state
from shared.kafka.codec import Envelope, Headers, Record
from shared.kafka.log_reader import LogReader, OffsetRange
from shared.kafka.producer import Publisher

BATCH_RECORDS = 500  # on their way to the broker at once
JOBS_AT_ONCE = 5000  # in one question to PostgreSQL
SETTLE_S = 0.5  # what a dead process sent last may still be on its way into the log
Tell = Callable[[int, int], None]  #: copies, of how many


@dataclass(kw_only=True)
class Replay:
    """One replay: what it takes, and from where."""

    operator: Operator
    selection: Selection
    spans: Sequence[OffsetRange]

    def picker(self, firsts: Mapping[tuple[str, int], int]) -> Picker:
        """A new one: it counts."""
        return Picker(selection=self.selection, firsts=firsts)

    async def plan(self, reader: LogReader, *, tell: Tell) -> tuple[Plan, Picker]:
        """Read everything that would be said again, and hold it against the rows."""
        plan, picker = Plan(), self.picker(await firsts(reader, self.spans))
        total, done = sum(span.length for span in self.spans), 0
        for span in self.spans:
            async for records in reader.read(span):
                for envelope in picker.pick(records):
                    plan.add(envelope.event)
                done += len(records)
                tell(done, total)
        await judge(self.operator, plan)
        return plan, picker

    async def copy(
        self, reader: LogReader, audit: AuditRow, *, total: int, rate: float | None, tell: Tell
    ) -> int:
        """Say them again, from where an earlier try of the same stopped; how many there are now.

        Raises:
            RetryableError: the broker did not confirm; what it has is found at the next try.
        """
        picker = self.picker(await firsts(reader, self.spans))
        pace = Pace(rate)
        publisher = Publisher(self.operator.kafka, source="ops", clock=self.operator.clock)
        await publisher.start()
        copied = 0
        try:
            for span in self.spans:
                before, last = await self._reached(reader, span, audit.number)
                copied += before
                async for records in reader.read(span):
                    picked = [one for one in picker.pick(records) if one.record.offset > last]
                    for at in range(0, len(picked), pace.batch):
                        batch = picked[at : at + pace.batch]
                        await pace.before(len(batch))
                        await publisher.send_all([_copy(one, audit.number) for one in batch])
                        copied += len(batch)
                        await audit.save_progress(progress(self.spans, total=total, copied=copied))
                        tell(copied, total)
        finally:
            await publisher.stop()
        return copied

    async def _reached(self, reader: LogReader, span: OffsetRange, number: int) -> tuple[int, int]:
        """How many copies of `span` there are, and the offset of the last one's origin."""
        wanted, copies, last = str(number), 0, -1
        written = await written_since(reader, span)
        async for records in reader.read(written):
            for record in records:
                origin = origin_of(record)
                if record.header(REPLAY_ID) == wanted and origin is not None:
                    copies, last = copies + 1, origin[2]
        return copies, last


class Pace:
    """Holds a number of records per second; what was not used is not made up for."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        #: a second's worth at most, so that a slow pace is even
        self.batch = BATCH_RECORDS if rate is None else max(1, min(BATCH_RECORDS, int(rate)))
        self._next = 0.0

    async def before(self, count: int) -> None:
        """Wait until `count` records more may go."""
        if self._rate is None:
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._next - loop.time(), 0))
        self._next = loop.time() + count / self._rate


async def judge(operator: Operator, plan: Plan) -> None:
    """Hold a plan against the rows of its runs."""
    known, stands = frozenset[str](), dict[tuple[str, int], run_state.RunState]()
    places = list(plan.runs)
    async with operator.database.connection() as connection:
        for at in range(0, len(places), JOBS_AT_ONCE):
            some = places[at : at + JOBS_AT_ONCE]
            stands |= await run_state.for_runs(connection, some)
            known |= await run_state.existing_jobs(connection, {job_id for job_id, _ in some})
    plan.judge(stands, known)


async def written_since(reader: LogReader, span: OffsetRange) -> OffsetRange:
    """What was written behind a stretch since it was fixed, once nothing more arrives."""
    end = await _end_of(reader, span)
    while end > span.end:
        await asyncio.sleep(SETTLE_S)
        later = await _end_of(reader, span)
        if later == end:
            break
        end = later
    return OffsetRange(topic=span.topic, partition=span.partition, start=span.end, end=end)


async def firsts(reader: LogReader, spans: Sequence[OffsetRange]) -> dict[tuple[str, int], int]:
    """Where the partitions of these topics begin now."""
    topics = dict.fromkeys(span.topic for span in spans)
    return {
        (one.topic, one.partition): one.start
        for name in topics
        for one in await reader.ranges(name)
    }


def progress(spans: Sequence[OffsetRange], *, total: int, copied: int) -> dict[str, Any]:
    """What the audit keeps: from it an interrupted replay goes on."""
    return {"spans": [asdict(span) for span in spans], "total": total, "copied": copied}


def spans_of(progress: Mapping[str, Any]) -> list[OffsetRange]:
    """The stretches that the audit kept."""
    return [OffsetRange(**one) for one in progress["spans"]]


async def _end_of(reader: LogReader, span: OffsetRange) -> int:
    return next(
        (one.end for one in await reader.ranges(span.topic) if one.partition == span.partition), 0
    )


def _copy(envelope: Envelope, number: int) -> Record:
    """The record once more, saying that it is a copy."""
    record = envelope.record
    marks: Headers = (
        (REPLAY_ID, str(number).encode()),
        (REPLAY_ORIGIN, f"{record.topic}/{record.partition}/{record.offset}".encode()),
    )
    kept = tuple(one for one in record.headers if one[0] not in {REPLAY_ID, REPLAY_ORIGIN})
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=kept + marks,
    )
