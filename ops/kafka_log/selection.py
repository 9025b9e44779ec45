"""Selects the records that a replay copies.

I/O: Kafka, through the given reader.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.times import Moment, format_time
from ops.kafka_log.republish import STAGE_TOPICS
from shared.contract.topics import DLQ_SUFFIX, EVENT_TOPICS, topic_named
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.log_reader import LogReader, OffsetRange

REPLAY_ID, REPLAY_ORIGIN = "replay-id", "replay-origin"  # headers of a replayed record


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySelection:
    """The bounds that the operator gave; an end is exclusive."""

    topic: str | None
    job_id: str | None = None
    partition: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    since: Moment | None = None
    until: Moment | None = None

    def check(self, *, now: datetime) -> None:
        """Raise if an option is invalid.

        Raises:
            CommandError: the option and its problem.
        """
        for problem in self._problems(now):
            raise CommandError(Exit.USAGE, problem)

    def _problems(self, now: datetime) -> Iterator[str]:
        if self.topic is None and self.job_id is None:
            yield "nothing is selected: name a TOPIC, or a job with --job"
        if self.topic is not None and self.topic.endswith(DLQ_SUFFIX):
            yield f"{self.topic} holds dead letters, which are not replayed: use segue dlq requeue"
        if self.topic is not None and topic_named(self.topic) is None:
            yield unknown_topic(self.topic)
        if self.partition is None and (self.from_offset, self.to_offset) != (None, None):
            yield "offsets need a partition: add --partition"
        if self.topic is None and self.partition is not None:
            yield "--partition needs a topic: name the TOPIC"
        for name, moment in (("--since", self.since), ("--until", self.until)):
            if moment is not None and moment.at > now:
                yield f"{name} is in the future: {format_time(moment.at)} (now: {format_time(now)})"
        if self.since and self.until and self.since.at >= self.until.at:
            yield "--since must be before --until"
        first, end = self.from_offset, self.to_offset
        if first is not None and end is not None and first >= end:
            yield "--from-offset must be below --to-offset"

    @property
    def topics(self) -> Sequence[str]:
        """Return the topics, in the order in which they are replayed."""
        return STAGE_TOPICS if self.topic is None else (self.topic,)

    def as_json(self) -> dict[str, Any]:
        """Return the arguments for the audit; an interrupted replay is found by them."""
        arguments = asdict(self)
        for name, moment in (("since", self.since), ("until", self.until)):
            # a relative time is another one when the same command is run again
            arguments[name] = moment and (
                moment.text if moment.is_relative else moment.at.isoformat()
            )
        return arguments

    def bounds(self) -> dict[str, str | None]:
        """Return the times that this run resolved, for its progress in the audit."""
        return {
            "since": None if self.since is None else self.since.at.isoformat(),
            "until": None if self.until is None else self.until.at.isoformat(),
        }

    def resumed(self, progress: Mapping[str, Any]) -> Self:
        """Return the selection with the times of the interrupted replay."""
        return replace(
            self,
            since=_as_resolved(self.since, progress.get("since")),
            until=_as_resolved(self.until, progress.get("until")),
        )

    async def ranges(self, reader: LogReader) -> list[OffsetRange]:
        """Return the selected offset ranges; they exclude records that are written from now on.

        Raises:
            CommandError: the topic, partition or offsets do not exist.
        """
        selected: list[OffsetRange] = []
        for topic in self.topics:
            stored = await reader.ranges(topic)
            if not stored:
                raise CommandError(Exit.REFUSED, f"topic {topic} not found on this Kafka cluster")
            selected += [
                await self._cut(reader, offsets)
                for offsets in stored
                if self.partition in {None, offsets.partition}
            ]
        if not selected:
            raise CommandError(Exit.REFUSED, f"{self.topic} has no partition {self.partition}")
        return selected

    async def _cut(self, reader: LogReader, stored: OffsetRange) -> OffsetRange:
        place = f"{stored.topic}/{stored.partition}"
        start, end = self.from_offset, self.to_offset
        if start is not None and start < stored.start:
            raise CommandError(
                Exit.REFUSED,
                f"{place} begins at offset {stored.start}: retention removed earlier records",
            )
        if max(start or 0, end or 0) > stored.end:
            raise CommandError(Exit.REFUSED, f"{place} ends at offset {stored.end}")
        if start is None:
            start = stored.start
            if self.since is not None:
                start = await reader.first_at(stored, self.since.at)
        last = stored.end if end is None else end
        return OffsetRange(topic=stored.topic, partition=stored.partition, start=start, end=last)


@dataclass(kw_only=True)
class RecordFilter:
    """Selects records from the ranges and counts those it leaves out.

    Given the same ranges from their beginning, it selects the same records; a replay that resumes
    relies on that.
    """

    selection: ReplaySelection
    start_offsets: Mapping[tuple[str, int], int]  #: of each partition
    not_events: int = 0
    copies: int = 0
    repeats: int = 0  #: the same event, published again by a service
    _ids: set[str] = field(default_factory=set)

    @property
    def left_out(self) -> int:
        """Return the number of records that were left out."""
        return self.not_events + self.copies + self.repeats

    def select(self, records: Sequence[Record]) -> Iterator[Envelope]:
        """Yield the records that are selected and can be replayed."""
        for record in records:
            if not self._is_in_time(record):
                continue
            received = try_decode(record)
            if not isinstance(received, Envelope):
                self.not_events += self.selection.job_id in {None, _key(record)}
            elif self.selection.job_id not in {None, received.event.job_id}:
                continue
            elif self._is_copy(record):
                self.copies += 1
            elif self._is_repeat(received):
                self.repeats += 1
            else:
                yield received

    def _is_repeat(self, envelope: Envelope) -> bool:
        """Return whether the same event was selected before; equal events have equal ids."""
        if envelope.event.kind not in STAGE_TOPICS:
            return False
        is_known = envelope.event_id in self._ids
        self._ids.add(envelope.event_id)
        return is_known

    def _is_in_time(self, record: Record) -> bool:
        moment = datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC)
        since, until = self.selection.since, self.selection.until
        return (since is None or moment >= since.at) and (until is None or moment < until.at)

    def _is_copy(self, record: Record) -> bool:
        """Return whether a replay wrote it and its original is still stored."""
        origin = origin_of(record)
        return origin is not None and origin[2] >= self.start_offsets.get(origin[:2], 0)


def origin_of(record: Record) -> tuple[str, int, int] | None:
    """Return the topic, partition and offset that a replay copied; None if it is no copy."""
    return place_of(record.header(REPLAY_ORIGIN) or "")


def place_of(text: str) -> tuple[str, int, int] | None:
    """Return `topic/2/17` (topic, partition, offset) as a tuple; None if it has another form."""
    parts = text.rsplit("/", 2)
    try:
        return parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        return None


def _as_resolved(moment: Moment | None, resolved: str | None) -> Moment | None:
    """Return a relative time as the interrupted replay resolved it."""
    if moment is None or resolved is None:
        return moment
    return replace(moment, at=datetime.fromisoformat(resolved))


def unknown_topic(topic: str) -> str:
    """Return the message for a topic that is not part of the contract."""
    names = ", ".join(known.name for known in EVENT_TOPICS)
    return f"topic {topic} not found; topics: {names}"


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
