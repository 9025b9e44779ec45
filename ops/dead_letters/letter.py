"""Dead letters as operators name and select them.

I/O: Kafka, through the given reader.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

from pydantic import Field

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.progress import ProgressReporter
from ops.kafka_log.republish import RecordSummary
from ops.kafka_log.selection import place_of, unknown_topic
from services.api.operators import LetterPlace, Resolution, ResolvedLetter
from shared.contract.events import Event, run_of
from shared.contract.topics import DLQ_SUFFIX, EVENT_TOPICS, topic_named
from shared.kafka.codec import Envelope, Record, try_decode
from shared.kafka.dead_letters import CONTENT
from shared.kafka.log_reader import LogReader, OffsetRange
from shared.kafka.original_records import is_cut, restore_original
from shared.kafka.parked_runs import FIRST_ORIGIN, REQUEUES
from shared.settings import SettingsGroup
from shared.storage import ObjectStore


class RequeueSettings(SettingsGroup):
    """The limit of requeues."""

    #: a record that failed again after so many requeues is quarantined
    requeues_max: int = Field(3, ge=1, le=1000, validation_alias="SEGUE_REQUEUES_MAX")


class DeadLetterState(StrEnum):
    """The state of a dead letter."""

    WAITING = "waiting"
    QUARANTINED = "quarantined"  #: waiting, and was requeued too often
    INTERRUPTED = "interrupted"  #: its requeue or discard was interrupted and can be resumed
    REQUEUED = "requeued"
    DISCARDED = "discarded"


class Lane(NamedTuple):
    """The records of one run on one topic; they are requeued together, in order."""

    topic: str
    job_id: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The fields of one dead letter that selection and requeue need; the record stays in Kafka."""

    place: LetterPlace
    at: datetime
    key: str | None
    lane: Lane | None  #: None: the record is not an event
    origin: (
        LetterPlace | None
    )  #: where the record was read; None: no Segue service wrote the letter
    first: LetterPlace | None  #: its origin before the first requeue
    exception: str
    reason: str
    attempts: str | None  #: "0": parked behind an earlier dead letter
    service: str | None
    requeues: int  #: how often it was requeued after it failed itself
    is_cut: bool  #: a part of the record is lost
    is_undecodable: bool  #: its value is no value, but bytes that could not be decoded
    summary: RecordSummary | None  #: None: the record is not an event

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the dead letter in `record`."""
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
            is_cut=is_cut(record),
            is_undecodable=record.header(CONTENT) in {"batch", "record"},
            summary=RecordSummary.of(event) if event else None,
        )

    @property
    def job_id(self) -> str | None:
        """Return the job of the event; the record's key if it is not an event."""
        return self.key if self.lane is None else self.lane.job_id

    @property
    def failed_itself(self) -> bool:
        """Return whether it was processed and failed, rather than parked behind another one."""
        return self.attempts != "0"

    @property
    def order(self) -> tuple[int, int, int]:
        """Return the position in its lane, which requeues do not change.

        Requests are ordered by scene: a request that was published again because the first one
        could not be decoded is stored behind the later scenes.
        """
        assert self.first is not None, "letters without an origin have no order"
        scene_index = 0 if self.summary is None else self.summary.scene_index
        return self.first[1], scene_index, self.first[2]

    def state(self, resolved: ResolvedLetter | None, *, requeues_max: int) -> DeadLetterState:
        """Return the state; `resolved` is what PostgreSQL has stored for it."""
        if resolved is None:
            is_spent = self.failed_itself and self.requeues >= requeues_max
            return DeadLetterState.QUARANTINED if is_spent else DeadLetterState.WAITING
        if not resolved.is_done:
            return DeadLetterState.INTERRUPTED
        return (
            DeadLetterState.REQUEUED
            if resolved.resolution is Resolution.REQUEUED
            else DeadLetterState.DISCARDED
        )

    def as_json(self) -> dict[str, Any]:
        """Return the dead letter for `--json`."""
        return {
            "place": place_text(self.place),
            "at": self.at.isoformat(),
            "job_id": self.job_id,
            "run": (self.lane.run or None) if self.lane else None,
            "origin": place_text(self.origin) if self.origin else None,
            "exception": self.exception,
            "reason": self.reason,
            "attempts": self.attempts,
            "requeues": self.requeues,
            "service": self.service,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSelection:
    """The dead letters that the operator selected; None selects all."""

    topic: str | None = None
    job_id: str | None = None
    run: int | None = None
    died_of: str | None = None  #: a part of the reason
    places: tuple[LetterPlace, ...] = ()

    def check(self) -> None:
        """Raise if the selection is too wide for a command that writes.

        Raises:
            CommandError: it selects everything, or names an unknown topic.
        """
        _ = self.topics
        if not (self.topic or self.job_id or self.died_of or self.places):
            message = "nothing is selected: name a TOPIC, or use --job, --died-of or --place"
            raise CommandError(Exit.USAGE, message)

    @property
    def topics(self) -> Sequence[str]:
        """Return the dead-letter topics to read."""
        if self.topic is None and self.places:
            return tuple(dict.fromkeys(topic for topic, _, _ in self.places))
        return dead_letter_topics(self.topic)

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether `letter` is selected."""
        return (
            self.job_id in {None, letter.job_id}
            and self.run in {None, letter.lane.run if letter.lane else -1}
            and (self.died_of is None or self.died_of in letter.reason)
            and (not self.places or letter.place in self.places)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the arguments for the audit; an interrupted command is found by them."""
        return {**asdict(self), "places": [place_text(place) for place in self.places]}


async def read_letters(
    reader: LogReader,
    store: ObjectStore,
    ranges: Sequence[OffsetRange],
    *,
    on_progress: ProgressReporter,
) -> AsyncIterator[DeadLetter]:
    """Yield every dead letter of the ranges; a truncated one by its whole record in the store."""
    total, done = sum(offsets.length for offsets in ranges), 0
    for offsets in ranges:
        async for records in reader.read(offsets):
            for record in records:
                yield DeadLetter.of(await restore_original(store, record))
            done += len(records)
            on_progress(done, total)


def in_order_once(lane: Sequence[DeadLetter]) -> Iterator[DeadLetter]:
    """Yield the lane in order, each record once; a crash may have written a letter twice."""
    places: set[LetterPlace | None] = set()
    for letter in sorted(lane, key=lambda letter: (letter.order, -letter.requeues)):
        if letter.first not in places:
            places.add(letter.first)
            yield letter


def dead_letter_topics(topic: str | None) -> Sequence[str]:
    """Return the dead-letter topic of `topic`, or all of them for None.

    Raises:
        CommandError: the topic does not exist.
    """
    if topic is None:
        return [known.dead_letters for known in EVENT_TOPICS]
    named = topic_named(topic.removesuffix(DLQ_SUFFIX))
    if named is None:
        raise CommandError(Exit.USAGE, unknown_topic(topic))
    return [named.dead_letters]


def parse_place(text: str) -> LetterPlace:
    """Return the place that the operator named.

    Raises:
        CommandError: it has another form, or an unknown topic.
    """
    place = place_of(text)
    if place is None:
        message = f"{text} is no TOPIC/PARTITION/OFFSET: copy one from segue dlq list"
        raise CommandError(Exit.USAGE, message)
    return dead_letter_topics(place[0])[0], place[1], place[2]


def place_text(place: LetterPlace) -> str:
    """Return a place as `topic/partition/offset`."""
    return "/".join(map(str, place))


def key_of(record: Record) -> str | None:
    """Return the key as text."""
    return None if record.key is None else record.key.decode(errors="replace")


def _origin(record: Record) -> LetterPlace | None:
    parts = (record.header(f"dlq-origin-{part}") or "" for part in ("topic", "partition", "offset"))
    place = place_of("/".join(parts))
    return place if place and place[0] + DLQ_SUFFIX == record.topic else None


def _event(record: Record, origin: LetterPlace | None) -> Event | None:
    """Return the record decoded as on its origin topic; None if it is not an event."""
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
