"""Dead letters: dead letters as operators name and choose them.

I/O: Kafka, through the reader that is handed in; all else is pure.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

from pydantic import Field

from ops.cli.exit_codes import CommandError, Exit
from ops.kafka_log.selection import Said
from services.api.operators import LetterPlace, Resolution, ResolvedLetter
from shared.contract.events import run_of
from shared.contract.topics import DLQ_SUFFIX, EVENT_TOPICS, topic_named
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.log_reader import LogReader, OffsetRange
from shared.kafka.parked_runs import FIRST_ORIGIN, REQUEUES
from shared.settings import SettingsGroup


class RequeueSettings(SettingsGroup):
    """How often something is put back."""

    #: a record that failed again after so many requeues is quarantined
    requeues_max: int = Field(3, ge=1, le=1000, validation_alias="SEGUE_REQUEUES_MAX")


class LetterState(StrEnum):
    """How a letter stands."""

    WAITING = "waiting"
    QUARANTINED = "quarantined"  #: waits, and was put back too often
    INTERRUPTED = "interrupted"  #: a command stopped in the middle of it: the same goes on
    REQUEUED = "requeued"
    DISCARDED = "discarded"


class Lane(NamedTuple):
    """The records of one run on one topic; they go together, in order."""

    topic: str
    job_id: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What is kept of a dead letter while they are counted; the record stays in the log."""

    place: LetterPlace
    at: datetime
    key: str | None
    lane: Lane | None  #: None: it is no event
    origin: LetterPlace | None  #: where the record lay; None: no service of ours wrote it
    first: LetterPlace | None  #: and before it was put back for the first time
    exception: str
    reason: str
    attempts: str | None  #: "0": it was parked behind another one
    service: str | None
    requeues: int  #: how often it was put back after it had failed itself
    is_cut: bool  #: its value is not whole
    said: Said | None  #: None: it is no event

    @classmethod
    def of(cls, record: Record) -> Self:
        """The letter that `record` is."""
        origin = _origin(record)
        event = _event(record, origin)
        requeues = record.header(REQUEUES) or "0"
        return cls(
            place=(record.topic, record.partition, record.offset),
            at=datetime.fromtimestamp((record.timestamp_ms or 0) / 1000, UTC),
            key=key_of(record),
            lane=Lane(origin[0], event.job_id, run_of(event)) if origin and event else None,
            origin=origin,
            first=place_of(record.header(FIRST_ORIGIN) or "") or origin,
            exception=record.header("dlq-exception") or "?",
            reason=record.header("dlq-reason") or "",
            attempts=record.header("dlq-attempts"),
            service=record.header("dlq-service"),
            requeues=int(requeues) if requeues.isdecimal() else 0,
            is_cut=record.header("dlq-truncated-from") is not None,
            said=Said.of(event) if event else None,
        )

    @property
    def failed_itself(self) -> bool:
        """Whether it was tried, not only parked behind another one."""
        return self.attempts != "0"

    @property
    def order(self) -> tuple[int, int, int]:
        """Where it belongs in its lane, however often it was put back.

        Requests go in the order of their scenes: one that was said again for one that nobody
        could read lies behind those that wait for it.
        """
        assert self.first is not None, "only letters of ours are put in order"
        scene_index = 0 if self.said is None else self.said.scene_index
        return self.first[1], scene_index, self.first[2]

    def state(self, fated: ResolvedLetter | None, *, requeues_max: int) -> LetterState:
        """How it stands, by what is known of it."""
        if fated is None:
            spent = self.failed_itself and self.requeues >= requeues_max
            return LetterState.QUARANTINED if spent else LetterState.WAITING
        if not fated.is_done:
            return LetterState.INTERRUPTED
        return (
            LetterState.REQUEUED
            if fated.resolution is Resolution.REQUEUED
            else LetterState.DISCARDED
        )

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "place": place_text(self.place),
            "at": self.at.isoformat(),
            "job_id": self.key if self.lane is None else self.lane.job_id,
            "run": (self.lane.run or None) if self.lane else None,
            "origin": place_text(self.origin) if self.origin else None,
            "exception": self.exception,
            "reason": self.reason,
            "attempts": self.attempts,
            "requeues": self.requeues,
            "service": self.service,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterSelection:
    """Which letters an operator means; what is None selects all."""

    topic: str | None = None
    job_id: str | None = None
    run: int | None = None
    died_of: str | None = None  #: some words of the reason
    places: tuple[LetterPlace, ...] = ()

    def check(self) -> None:
        """Return if it is narrow enough for a command that writes.

        Raises:
            CommandError: it means everything, or names an unknown topic.
        """
        _ = self.topics
        if not (self.topic or self.job_id or self.died_of or self.places):
            told = "say which: name a TOPIC, or use --job, --died-of or --place"
            raise CommandError(Exit.USAGE, told)

    @property
    def topics(self) -> Sequence[str]:
        """The dead-letter topics that have to be read."""
        if self.topic is None and self.places:
            return tuple(dict.fromkeys(topic for topic, _, _ in self.places))
        return dead_letter_topics(self.topic)

    def takes(self, letter: Letter) -> bool:
        """Whether it is meant."""
        job_id = letter.lane.job_id if letter.lane else letter.key
        return (
            self.job_id in {None, job_id}
            and self.run in {None, letter.lane.run if letter.lane else -1}
            and (self.died_of is None or self.died_of in letter.reason)
            and (not self.places or letter.place in self.places)
        )

    def as_json(self) -> dict[str, Any]:
        """For the audit, where an interrupted command is found by it."""
        return {**asdict(self), "places": [place_text(place) for place in self.places]}


async def letters_in(
    reader: LogReader, spans: Sequence[OffsetRange], *, tell: Callable[[int, int], None]
) -> AsyncIterator[Letter]:
    """Every dead letter in these stretches."""
    total, done = sum(span.length for span in spans), 0
    for span in spans:
        async for records in reader.read(span):
            for record in records:
                yield Letter.of(record)
            done += len(records)
            tell(done, total)


def once(lane: Sequence[Letter]) -> Iterator[Letter]:
    """The lane in its order, each record once: a death may have put it aside twice."""
    seen: set[LetterPlace | None] = set()
    for letter in sorted(lane, key=lambda one: (one.order, -one.requeues)):
        if letter.first not in seen:
            seen.add(letter.first)
            yield letter


def dead_letter_topics(topic: str | None) -> Sequence[str]:
    """The dead-letter topics that are meant by a name; None: all of them.

    Raises:
        CommandError: there is no such topic.
    """
    if topic is None:
        return [one.dead_letters for one in EVENT_TOPICS]
    named = topic_named(topic.removesuffix(DLQ_SUFFIX))
    if named is None:
        names = ", ".join(one.name for one in EVENT_TOPICS)
        raise CommandError(Exit.USAGE, f"there is no topic {topic}; there are {names}")
    return [named.dead_letters]


def parsed(place: str) -> LetterPlace:
    """A place as people write it.

    Raises:
        CommandError: it is none.
    """
    found = place_of(place)
    if found is None:
        told = f"{place} is no place: name it as TOPIC/PARTITION/OFFSET (segue dlq list shows it)"
        raise CommandError(Exit.USAGE, told)
    return dead_letter_topics(found[0])[0], found[1], found[2]


def place_of(text: str) -> LetterPlace | None:
    """`topic/2/17` as a value; None: it is no place."""
    told = text.rsplit("/", 2)
    try:
        return told[0], int(told[1]), int(told[2])
    except (IndexError, ValueError):
        return None


def place_text(place: LetterPlace) -> str:
    """A place as people write it."""
    return "/".join(map(str, place))


def key_of(record: Record) -> str | None:
    """The key as text."""
    return None if record.key is None else record.key.decode(errors="replace")


def _origin(record: Record) -> LetterPlace | None:
    where = (record.header(f"dlq-origin-{what}") or "" for what in ("topic", "partition", "offset"))
    found = place_of("/".join(where))
    return found if found and found[0] + DLQ_SUFFIX == record.topic else None


def _event(record: Record, origin: LetterPlace | None) -> Any:
    """What the record says, read as if it lay where it came from; None: it is no event."""
    if origin is None:
        return None
    received = try_decode(
        Record(
            topic=origin[0],
            partition=origin[1],
            offset=origin[2],
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
    )
    return received.event if isinstance(received, Envelope) else None
