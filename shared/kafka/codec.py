"""Codec: events to records and back; the only JSON between services.

Value: the event as JSON. Key: the job id. Headers: CloudEvents 1.0, Kafka protocol binding in
binary mode (`ce_…`), plus W3C `traceparent` and `tracestate`. A record from upstream with a bare
JSON value and no headers is read on its value alone.
"""

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from shared.contract.events import Event
from shared.contract.topics import topic_named, topic_of
from shared.contract.validation import field_problems, join_problems
from shared.errors import UndecodableError

CONTENT_TYPE = b"application/json"
VALUE_BYTES_MAX = 1_000_000  # Kafka's own default limit for one record
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as Kafka has it; `topic` without the prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None

    @property
    def timestamp_s(self) -> float | None:
        """When it was written, seconds of Unix time; None: it does not say."""
        known = self.timestamp_ms if self.timestamp_ms and self.timestamp_ms > 0 else None
        return None if known is None else known / 1000

    def header(self, name: str) -> str | None:
        """The last header of this name as text; None if there is none."""
        found = [value for key, value in self.headers if key == name and value is not None]
        return found[-1].decode(errors="replace") if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A record that was understood."""

    event: Event
    event_id: str
    traceparent: str | None
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A record that was not understood, and why."""

    record: Record
    error: UndecodableError


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRecord:
    """What a publisher hands to Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def encode(
    event: Event, *, source: str, now: datetime, traceparent: str | None = None
) -> OutgoingRecord:
    """The record that says `event`; the same event has the same id, whenever it is said."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.event_id().encode()),
        ("ce_type", event.ce_type().encode()),
        ("ce_source", f"/segue/{source}".encode()),
        ("ce_time", now.isoformat().encode()),
        ("ce_subject", event.job_id.encode()),
        ("content-type", CONTENT_TYPE),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return OutgoingRecord(
        topic=topic_of(type(event)).name,
        key=event.job_id.encode(),
        value=event.model_dump_json().encode(),
        headers=tuple(headers),
    )


def decode(record: Record) -> Envelope:
    """What `record` says.

    Raises:
        UndecodableError: no such event, a newer version, not JSON, or a field that is wrong.
    """
    topic = topic_named(record.topic)
    if topic is None or topic.event is None:
        raise UndecodableError(f"topic {record.topic} carries no events")
    _check_type(record.header("ce_type"), topic.event)
    if not record.value:
        raise UndecodableError("the record has no value")
    if len(record.value) > VALUE_BYTES_MAX:
        raise UndecodableError(f"the value has {len(record.value)} bytes, at most a million")
    try:
        event = topic.event.model_validate_json(record.value)
    except ValidationError as error:
        raise UndecodableError(join_problems(field_problems(error))) from error
    return Envelope(
        event=event,
        event_id=record.header("ce_id") or event.event_id(),
        traceparent=record.header("traceparent"),
        record=record,
    )


def try_decode(record: Record) -> Envelope | Unreadable:
    """`decode` as a value, for whoever carries the record on either way."""
    try:
        return decode(record)
    except UndecodableError as error:
        return Unreadable(record=record, error=error)


def lane_key(received: Envelope | Unreadable) -> str:
    """Whose lane the record belongs in: its job's, else that of its key."""
    if isinstance(received, Envelope):
        return received.event.job_id
    return (received.record.key or b"").decode(errors="replace")


def _check_type(ce_type: str | None, event: type[Event]) -> None:
    if ce_type is None or ce_type == event.ce_type():
        return
    prefix = f"segue.{event.kind}.v"
    if ce_type.startswith(prefix) and ce_type.removeprefix(prefix).isdigit():
        raise UndecodableError(f"ce_type {ce_type} is a version this service does not know")
    if ce_type.startswith("segue."):
        raise UndecodableError(f"ce_type {ce_type} does not belong on this topic")
    # another producer's own type name: the value alone decides
