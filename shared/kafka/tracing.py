"""Trace context of Kafka records, by OpenTelemetry's messaging conventions.

A record carries the trace context of its producer (`traceparent`, `tracestate`). Processing it is
a `process` span in that trace, publishing is a `send` span, and a published record carries the
latter; so one trace covers a request up to its last event, the outbox included. Context does
not follow into lanes: `process_span` attaches it there, and binds job, run and scene to log lines.
Dead letters keep the headers they came with.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.contract.events import Event
from shared.contract.topics import DLQ_SUFFIX
from shared.kafka.codec import Headers, Record
from shared.telemetry import trace
from shared.telemetry.log import log_context
from shared.telemetry.trace import Attributes, Span, TraceContext

_CONTEXT = frozenset({"traceparent", "tracestate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A record that is being published."""

    headers: Headers
    span: Span

    def confirmed(self, partition: int, offset: int) -> None:
        """Note where the broker stored the record."""
        trace.set_attributes(
            {
                "messaging.destination.partition.id": str(partition),
                "messaging.kafka.offset": offset,
            },
            self.span,
        )


def trace_context_of(record: Record) -> TraceContext:
    """Return the trace context of the record's producer; an empty one without."""
    return trace.extract(record.header("traceparent"), record.header("tracestate"))


def with_trace_context(headers: Headers) -> Headers:
    """Return `headers` with the current trace context; unchanged without one."""
    context = trace.current_headers()
    if not context:
        return headers
    others = tuple(pair for pair in headers if pair[0] not in _CONTEXT)
    return (*others, *((name, value.encode()) for name, value in context.items()))


@contextmanager
def process_span(record: Record, event: Event | None = None) -> Iterator[Span]:
    """Run a block in the record's trace, with its job bound to log lines."""
    subject = _subject(event)
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    attributes = _processing(record, subject) if trace.is_on() else None
    with (
        log_context(**(subject or place)),
        trace.continue_trace(
            trace_context_of(record), f"process {record.topic}", attributes, kind="consumer"
        ) as span,
    ):
        yield span


@contextmanager
def process_spans(records: Sequence[Record]) -> Iterator[None]:
    """Run a block with a span in the trace of each record of a batch."""
    if not trace.is_on():
        yield
        return
    spans = [
        trace.start_span(
            f"process {record.topic}",
            _processing(record, {}),
            kind="consumer",
            parent=trace_context_of(record),
        )
        for record in records
    ]
    try:
        yield
    except BaseException as error:
        for span in spans:
            trace.record_error(error, span)
        raise
    finally:
        for span in spans:
            span.end()


@contextmanager
def send_span(topic: str, *, key: bytes | None, headers: Headers) -> Iterator[Sending]:
    """Run a block that publishes a record; yields the headers to publish it with."""
    attributes, parent = None, None
    if trace.is_on():
        record = Record(topic=topic, partition=0, offset=0, key=key, value=None, headers=headers)
        attributes = _sending(record)
        parent = None if trace.current_headers() else trace_context_of(record)
    with trace.span(f"send {topic}", attributes, kind="producer", parent=parent) as span:
        yield Sending(
            headers=headers if _keeps_headers(topic) else with_trace_context(headers), span=span
        )


def _keeps_headers(topic: str) -> bool:
    """Return True for dead letters: a requeue continues the trace that they came with."""
    return topic.endswith(DLQ_SUFFIX)


def _subject(event: Event | None) -> dict[str, str | int]:
    if event is None:
        return {}
    subject: dict[str, str | int] = {"job_id": event.job_id}
    for name in ("run", "scene_index"):
        value = getattr(event, name, None)
        if isinstance(value, int):
            subject[name] = value
    return subject


def _sending(record: Record) -> Attributes:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": trace.current_service().topic_prefix + record.topic,
        "messaging.kafka.message.key": _key(record),
        "messaging.message.id": record.header("ce_id"),
        "segue.job_id": _key(record),
    }


def _processing(record: Record, subject: dict[str, str | int]) -> Attributes:
    service = trace.current_service()
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": service.topic_prefix + record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.kafka.message.key": _key(record),
        "messaging.consumer.group.name": f"{service.topic_prefix}segue-{service.name}",
        "messaging.message.id": record.header("ce_id"),
        "segue.job_id": _key(record),
        **{f"segue.{name}": value for name, value in subject.items()},
    }


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
