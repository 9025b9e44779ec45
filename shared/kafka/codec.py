"""Encodes events as Kafka records and decodes them.

Value: the event as JSON. Key: the job id. Headers: CloudEvents 1.0, Kafka protocol binding in
binary mode (`ce_…`), plus W3C `traceparent` and `tracestate`. A record from upstream may have a
bare JSON value and no headers: then the value alone is decoded.

Pure.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from pydantic import ValidationError

from shared.contract.events import Event
from shared.contract.topics import topic_named, topic_of
from shared.contract.validation import field_problems, join_problems
from shared.errors import UndecodableError

CONTENT_TYPE = b"application/json"
VALUE_BYTES_MAX = 1_000_000  # Kafka's own default limit for one record
Headers = tuple[tuple[str, bytes | None], ...]
#: what the bytes of an `Undecodable` are: a whole record batch, one encoded record, or the value
#: of a record whose headers could not be decoded
UndecodableContent = Literal["batch", "record", "value"]


class Undecodable(bytes):
    """Stored bytes that the Kafka client could not decode, in place of a record's value."""

    reason: str
    first: int  #: the offsets that the bytes cover, both included
    last: int
    content: UndecodableContent

    def __new__(
        cls, data: bytes, *, reason: str, first: int, last: int, content: UndecodableContent
    ) -> Self:
        """Return `data` with the reason why it could not be decoded."""
        self = super().__new__(cls, data)
        self.reason, self.first, self.last, self.content = reason, first, last, content
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A Kafka record; `topic` without the prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None

    @property
    def timestamp_s(self) -> float | None:
        """Unix time of the record in seconds; None without a timestamp."""
        if self.timestamp_ms is None or self.timestamp_ms <= 0:
            return None
        return self.timestamp_ms / 1000

    def header(self, name: str) -> str | None:
        """Return the last header of this name as text; None if there is none."""
        values = [value for key, value in self.headers if key == name and value is not None]
        return values[-1].decode(errors="replace") if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A record and its decoded event."""

    event: Event
    event_id: str
    traceparent: str | None
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A record that could not be decoded, and the reason."""

    record: Record
    error: UndecodableError


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRecord:
    """A record to be published."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def encode(
    event: Event, *, source: str, now: datetime, traceparent: str | None = None
) -> OutgoingRecord:
    """Return the record of `event`; equal events have equal ids, whenever they are published."""
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
    """Return the event of `record`.

    Raises:
        UndecodableError: an unknown event or version, not JSON, or an invalid field.
    """
    topic = topic_named(record.topic)
    if topic is None or topic.event is None:
        raise UndecodableError(f"topic {record.topic} carries no events")
    if isinstance(record.value, Undecodable):
        raise UndecodableError(_undecodable_reason(record.value))
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
    """Decode `record`; return an `Unreadable` instead of raising."""
    try:
        return decode(record)
    except UndecodableError as error:
        return Unreadable(record=record, error=error)


def lane_key(received: Envelope | Unreadable) -> str:
    """Return the key of the record's lane: its job id, or the record's key if unreadable."""
    if isinstance(received, Envelope):
        return received.event.job_id
    return (received.record.key or b"").decode(errors="replace")


def _undecodable_reason(value: Undecodable) -> str:
    if value.first == value.last:
        return f"offset {value.first} cannot be decoded: {value.reason}"
    return f"offsets {value.first} to {value.last} cannot be decoded: {value.reason}"


def _check_type(ce_type: str | None, event: type[Event]) -> None:
    if ce_type is None or ce_type == event.ce_type():
        return
    prefix = f"segue.{event.kind}.v"
    if ce_type.startswith(prefix) and ce_type.removeprefix(prefix).isdigit():
        raise UndecodableError(f"ce_type {ce_type} is a version this service does not know")
    if ce_type.startswith("segue."):
        raise UndecodableError(f"ce_type {ce_type} does not belong on this topic")
    # a type name of another producer: the value alone is decoded
