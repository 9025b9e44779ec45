"""Selecting: which records an operator means, and what it would come to to say them again.

Pure, but for the reader that is handed in.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from ops.cli.exit_codes import CommandError, Exit
from services.api.operators import RunState, RunStatus
from shared.contract.events import (
    AudioMerged,
    Event,
    SceneRequested,
    SegmentGenerated,
    VideoMuxed,
    VideoStitched,
    run_of,
)
from shared.contract.topics import DLQ_SUFFIX, EVENT_TOPICS, topic_named
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.log_reader import LogReader, OffsetRange

REPLAY_ID, REPLAY_ORIGIN = "replay-id", "replay-origin"  # headers of what was said again
#: a job's own way, in the order in which it goes it
LINE = (SceneRequested.kind, SegmentGenerated.kind, AudioMerged.kind, VideoMuxed.kind)
GONE_FOR_GOOD = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.SUPERSEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was asked for; the end of a stretch is not part of it."""

    topic: str | None
    job_id: str | None = None
    partition: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def check(self, *, now: datetime) -> None:
        """Return if it means something.

        Raises:
            CommandError: an option is wrong, and which.
        """
        for problem in self._problems(now):
            raise CommandError(Exit.USAGE, problem)

    def _problems(self, now: datetime) -> Iterator[str]:
        if self.topic is None and self.job_id is None:
            yield "name a TOPIC, or a job with --job"
        if self.topic is not None and self.topic.endswith(DLQ_SUFFIX):
            yield f"{self.topic} holds dead letters: a replay would not mend what they died of"
        if self.topic is not None and topic_named(self.topic) is None:
            names = ", ".join(topic.name for topic in EVENT_TOPICS)
            yield f"there is no topic {self.topic}; there are {names}"
        if self.partition is None and (self.from_offset, self.to_offset) != (None, None):
            yield "an offset is of one partition: name it with --partition"
        if self.topic is None and self.partition is not None:
            yield "a partition is of one topic: name the TOPIC"
        for name, moment in (("--since", self.since), ("--until", self.until)):
            if moment is not None and moment > now:
                yield f"{name}: {moment.isoformat()} is yet to come (now: {now.isoformat()})"
        if self.since and self.until and self.since >= self.until:
            yield "--since must lie before --until: nothing lies between them"
        first, end = self.from_offset, self.to_offset
        if first is not None and end is not None and first >= end:
            yield "--from-offset must be below --to-offset: nothing lies between them"

    @property
    def topics(self) -> Sequence[str]:
        """The topics, in the order in which they are said again."""
        return LINE if self.topic is None else (self.topic,)

    def as_json(self) -> dict[str, Any]:
        """For the audit, where an interrupted replay is found by it."""
        told = asdict(self)
        for name in ("since", "until"):
            told[name] = told[name] and told[name].isoformat()
        return told

    async def spans(self, reader: LogReader) -> list[OffsetRange]:
        """The stretches as they lie in the log now; what is written from now on is not in them.

        Raises:
            CommandError: there is no such topic or partition, or not so much of it.
        """
        found: list[OffsetRange] = []
        for topic in self.topics:
            there = await reader.ranges(topic)
            if not there:
                raise CommandError(Exit.REFUSED, f"the topic {topic} is not on this Kafka")
            found += [await self._cut(reader, span) for span in there if self._meant(span)]
        if not found:
            raise CommandError(Exit.REFUSED, f"{self.topic} has no partition {self.partition}")
        return found

    def _meant(self, span: OffsetRange) -> bool:
        return self.partition is None or span.partition == self.partition

    async def _cut(self, reader: LogReader, span: OffsetRange) -> OffsetRange:
        place = f"{span.topic}/{span.partition}"
        start, end = self.from_offset, self.to_offset
        if start is not None and start < span.start:
            told = f"{place} begins at offset {span.start}: what lay before it has gone by age"
            raise CommandError(Exit.REFUSED, told)
        if max(start or 0, end or 0) > span.end:
            raise CommandError(Exit.REFUSED, f"{place} ends at offset {span.end}")
        if start is None:
            start = span.start
            if self.since is not None:
                start = await reader.first_at(span, self.since)
        last = span.end if end is None else end
        return OffsetRange(topic=span.topic, partition=span.partition, start=start, end=last)


@dataclass(kw_only=True)
class Picker:
    """Takes from the stretches what is meant.

    Fed with the same stretches from their beginning, it picks the same records: what goes on
    after an interruption relies on it.
    """

    selection: Selection
    firsts: Mapping[tuple[str, int], int]  #: where each partition begins
    not_events: int = 0
    copies: int = 0
    repeats: int = 0  #: what services said again of their own, word for word the same event
    _ids: set[str] = field(default_factory=set)

    def pick(self, records: Sequence[Record]) -> Iterator[Envelope]:
        """Those that are meant and can be said again."""
        for record in records:
            if not self._in_time(record):
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
        """Whether the same event was picked before; ids are a function of what is said."""
        if envelope.event.kind not in LINE:
            return False
        known = envelope.event_id in self._ids
        self._ids.add(envelope.event_id)
        return known

    def _in_time(self, record: Record) -> bool:
        moment = datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC)
        since, until = self.selection.since, self.selection.until
        return (since is None or moment >= since) and (until is None or moment < until)

    def _is_copy(self, record: Record) -> bool:
        """Whether a replay wrote it, and what it is a copy of is still there."""
        origin = origin_of(record)
        return origin is not None and origin[2] >= self.firsts.get(origin[:2], 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is kept of one record while they are counted: there may be a million."""

    kind: str
    scene_index: int = 0
    scenes_s: tuple[float, ...] = ()  #: lengths of the scenes that it asks for

    @classmethod
    def of(cls, event: Event) -> Self:
        """What `event` says."""
        if isinstance(event, SceneRequested):
            lengths: tuple[float, ...] = (event.duration_s,)
            return cls(kind=event.kind, scene_index=event.scene_index, scenes_s=lengths)
        if isinstance(event, VideoStitched):
            lengths = tuple(scene.duration_s for scene in event.scenes)
            return cls(kind=event.kind, scenes_s=lengths)
        return cls(kind=event.kind)

    def is_done(self, stands: RunState | None, *, is_known: bool) -> bool:
        """Whether saying it again asks nobody for anything."""
        if self.kind == VideoStitched.kind:
            return is_known
        if stands is None:
            return self.kind not in LINE
        if stands.status in GONE_FOR_GOOD:
            return True
        made = {
            SceneRequested.kind: self.scene_index in stands.stored_scenes,
            SegmentGenerated.kind: stands.has_track,
            AudioMerged.kind: stands.has_video,
        }
        return made.get(self.kind, True)  # the others are words about what was made


@dataclass(kw_only=True)
class Plan:
    """What a replay would come to."""

    records: Counter[str] = field(default_factory=Counter)  #: by topic
    runs: dict[tuple[str, int], list[Said]] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)  #: runs, by how they stand
    running: list[str] = field(default_factory=list)  #: jobs
    already_done: int = 0  #: records of work that is done
    scenes_s: list[float] = field(default_factory=list)  #: of scenes that may be made again

    def add(self, event: Event) -> None:
        """Count one record."""
        self.note(event.job_id, run_of(event), Said.of(event))

    def note(self, job_id: str, run: int, said: Said) -> None:
        """Count one record of which this much is kept."""
        self.records[said.kind] += 1
        self.runs.setdefault((job_id, run), []).append(said)

    def judge(self, standing: Mapping[tuple[str, int], RunState], known: frozenset[str]) -> None:
        """Hold what was counted against what is known of the runs."""
        for place, said in self.runs.items():
            stands, is_known = standing.get(place), place[0] in known
            self.states[stands.status.value if stands else "none" if is_known else "unknown"] += 1
            if stands is not None and stands.is_running:
                self.running.append(place[0])
            for one in said:
                if one.is_done(stands, is_known=is_known):
                    self.already_done += 1
                else:
                    self.scenes_s += one.scenes_s


def origin_of(record: Record) -> tuple[str, int, int] | None:
    """What a replay copied `record` from: topic, partition and offset; None: it is no copy."""
    told = (record.header(REPLAY_ORIGIN) or "").rsplit("/", 2)
    try:
        return told[0], int(told[1]), int(told[2])
    except (IndexError, ValueError):
        return None


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
