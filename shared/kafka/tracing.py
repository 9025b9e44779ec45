"""Tracing: records and the traces they belong to, by OpenTelemetry's messaging conventions.

A record carries the context of whoever sent it (`traceparent`, `tracestate`). Working it off is a
`process` span inside that trace, saying something a `send` span, and what is sent carries the
latter; so a trace goes from the request to the last event whatever lies between, the outbox
included. Context does not follow by itself into lanes: `handling` attaches it there, and binds
job, run and scene to every log line. Dead letters keep the headers they came with.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.contract.events import Event
from shared.contract.topics import DLQ_SUFFIX
from shared.kafka.codec import Headers, Record
from shared.telemetry import trace
from shared.telemetry.log import log_context
from shared.telemetry.trace import Attributes, Carried, Span

_CONTEXT = frozenset({"traceparent", "tracestate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A record on its way."""

    headers: Headers
    span: Span

    def confirmed(self, partition: int, offset: int) -> None:
        """Where the broker has it."""
        self.span.set(
            {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}
        )


def trace_context_of(record: Record) -> Carried | None:
    """The context of whoever sent `record`."""
    return Carried.of(record.header("traceparent"), record.header("tracestate"))


def with_trace_context(headers: Headers) -> Headers:
    """`headers` with the context of what goes on now; as they are where there is none."""
    carried = trace.outgoing()
    if carried is None:
        return headers
    others = tuple(pair for pair in headers if pair[0] not in _CONTEXT)
    told = [("traceparent", carried.traceparent.encode())]
    if carried.tracestate:
        told.append(("tracestate", carried.tracestate.encode()))
    return (*others, *told)


@contextmanager
def process_span(record: Record, event: Event | None = None) -> Iterator[Span]:
    """While `record` is worked off: its trace goes on, and log lines name its job."""
    told = _subject(event)
    bound = told or {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    attributes = _processing(record, told) if trace.is_on() else None
    with (
        log_context(**bound),
        trace.continuing(
            trace_context_of(record), f"process {record.topic}", attributes, kind="consumer"
        ) as span,
    ):
        yield span


@contextmanager
def process_spans(records: Sequence[Record]) -> Iterator[None]:
    """While a batch is worked off: a span in the trace of each of its records."""
    if not trace.is_on():
        yield
        return
    spans = [
        trace.begin(
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
            span.failed(error)
        raise
    finally:
        for span in spans:
            span.end()


@contextmanager
def send_span(topic: str, *, key: bytes | None, headers: Headers) -> Iterator[Sending]:
    """While a record is sent: the headers to send it with."""
    if not trace.is_on():
        yield Sending(
            headers=headers if _is_kept(topic) else with_trace_context(headers), span=trace.NO_SPAN
        )
        return
    known = Record(topic=topic, partition=0, offset=0, key=key, value=None, headers=headers)
    parent = None if trace.outgoing() else trace_context_of(known)
    name = f"send {topic}"
    with trace.span(name, _sending(known), kind="producer", parent=parent) as span:
        yield Sending(
            headers=headers if _is_kept(topic) else with_trace_context(headers), span=span
        )


def _is_kept(topic: str) -> bool:
    """Dead letters are kept whole: who requeues one goes on in the trace it came with."""
    return topic.endswith(DLQ_SUFFIX)


def _subject(event: Event | None) -> dict[str, str | int]:
    if event is None:
        return {}
    told: dict[str, str | int] = {"job_id": event.job_id}
    for name in ("run", "scene_index"):
        value = getattr(event, name, None)
        if isinstance(value, int):
            told[name] = value
    return told


def _sending(record: Record) -> Attributes:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": trace.serving().topic_prefix + record.topic,
        "messaging.kafka.message.key": _key(record),
        "messaging.message.id": record.header("ce_id"),
        "segue.job_id": _key(record),
    }


def _processing(record: Record, subject: dict[str, str | int]) -> Attributes:
    serving = trace.serving()
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": serving.topic_prefix + record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.kafka.message.key": _key(record),
        "messaging.consumer.group.name": f"{serving.topic_prefix}segue-{serving.service}",
        "messaging.message.id": record.header("ce_id"),
        "segue.job_id": _key(record),
        **{f"segue.{name}": value for name, value in subject.items()},
    }


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
