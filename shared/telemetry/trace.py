"""Trace context and spans, by OpenTelemetry's API; the SDK is imported only if tracing is on.

A caller's W3C context (`traceparent`, `tracestate`) is passed on whether tracing is on or not.
With tracing on, spans are exported by OTLP over HTTP, one `TracerProvider` per service, because
several services may share a process. The SDK reads its own variables: `OTEL_EXPORTER_OTLP_…`,
sampler, batches, resource. See ADR-0019.

Spans hold no payloads and no addresses: names are constant; job, run and scene are attributes.
Exceptions are not recorded: their messages and stacks quote addresses.

Only this module imports OpenTelemetry. I/O: HTTP, from a thread of the SDK.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import NotFoundError
from shared.settings import TelemetrySettings
from shared.telemetry import service_version
from shared.telemetry.redaction import redact

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

CLOSE_S = 1.5  # for the last export: a stop ends within ten seconds
REASON_CHARS_MAX = 300
SEMANTIC_CONVENTIONS = "https://opentelemetry.io/schemas/1.44.0"  # of the attributes' names
Span = otel.Span
TraceContext = otel_context.Context  #: a W3C trace context, among the values of a task
NO_SPAN: Span = otel.INVALID_SPAN  #: the span while tracing is off
Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool | None]  #: None: left out
_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The service that a task works for."""

    name: str = "segue"
    topic_prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Sdk:
    """The SDK's span processor and a tracer per service."""

    processor: "SpanProcessor"
    tracers: dict[str, Tracer] = field(default_factory=dict)

    def tracer(self, service: str) -> Tracer:
        if service not in self.tracers:
            self.tracers[service] = _new_tracer(service, self.processor)
        return self.tracers[service]


_sdk: _Sdk | None = None
_process = Service()
_service: ContextVar[Service | None] = ContextVar("service", default=None)


def configure(settings: TelemetrySettings, *, service: str) -> None:
    """Turn tracing on if the environment asks for it; once per process.

    `service`: the default where no task called `set_service`, as in threads of libraries.
    """
    global _process  # noqa: PLW0603 - one per process
    _process = Service(name=service)
    if settings.traces_wanted:
        install(_otlp_processor())


def install(processor: "SpanProcessor | None") -> None:
    """Give spans to `processor` from now on; None turns tracing off."""
    global _sdk  # noqa: PLW0603 - one per process, as the log is
    _sdk = None if processor is None else _Sdk(processor)


def close(*, within_s: float = CLOSE_S) -> None:
    """Export the remaining spans and turn tracing off, in `within_s` at most.

    The SDK's own shutdown waits for up to 30 s.
    """
    sdk = _sdk
    install(None)
    if sdk is not None:
        closing = threading.Thread(target=sdk.processor.shutdown, daemon=True)
        closing.start()
        closing.join(within_s)


def is_on() -> bool:
    """Return whether tracing is on."""
    return _sdk is not None


def set_service(name: str, *, topic_prefix: str = "") -> None:
    """Set the service of this task and of the tasks that it starts."""
    _service.set(Service(name=name, topic_prefix=topic_prefix))


def current_service() -> Service:
    """Return the service of this task."""
    return _service.get() or _process


def extract(traceparent: str | None, tracestate: str | None = None) -> TraceContext:
    """Return the W3C context in these headers; an empty one if they are missing or invalid."""
    headers = {"traceparent": traceparent or ""}
    if tracestate and tracestate.isprintable():
        headers["tracestate"] = tracestate
    return _W3C.extract(headers, context=TraceContext())


def current_headers() -> dict[str, str]:
    """Return the headers that carry the current context: of the current span, or the caller's."""
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    return headers


def current_trace_id() -> str | None:
    """Return the current trace's id, 32 hexadecimal digits; None without a trace."""
    span_context = otel.get_current_span().get_span_context()
    return otel.format_trace_id(span_context.trace_id) if span_context.is_valid else None


def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: TraceContext | None = None,
) -> AbstractContextManager[Span]:
    """Run a block in a span; `parent` None: a child of the current span."""
    if _sdk is None:
        return nullcontext(NO_SPAN)
    return _current_span(start_span(name, attributes or {}, kind=kind, parent=parent))


def start_span(
    name: str, attributes: Attributes, *, kind: Kind, parent: TraceContext | None
) -> Span:
    """Start a span without making it the current one; the caller ends it."""
    if _sdk is None:
        return NO_SPAN
    tracer = _sdk.tracer(current_service().name)
    return tracer.start_span(
        name, context=parent, kind=SpanKind[kind.upper()], attributes=_clean(attributes)
    )


@contextmanager
def continue_trace(
    parent: TraceContext, name: str, attributes: Attributes | None = None, *, kind: Kind
) -> Iterator[Span]:
    """Run a block in the trace of `parent`, or in a new one if it is empty."""
    token = otel_context.attach(parent)
    try:
        with span(name, attributes, kind=kind) as current:
            yield current
    finally:
        otel_context.detach(token)


def set_attributes(attributes: Attributes, on: Span | None = None) -> None:
    """Set attributes of the span `on`, redacted; None: the current span."""
    target = on or otel.get_current_span()
    if target.is_recording():
        target.set_attributes(_clean(attributes))


def record_error(error: BaseException | str, on: Span | None = None) -> None:
    """Mark the span `on` as failed, with the redacted reason; None: the current span.

    A cancellation and a missing object are results, not failures.
    """
    target = on or otel.get_current_span()
    if not target.is_recording():
        return
    if isinstance(error, asyncio.CancelledError | GeneratorExit | NotFoundError):
        return
    kind = error if isinstance(error, str) else type(error).__name__
    target.set_attribute("error.type", redact(kind)[:REASON_CHARS_MAX])
    target.set_status(Status(StatusCode.ERROR, redact(str(error))[:REASON_CHARS_MAX]))


@contextmanager
def _current_span(started: Span) -> Iterator[Span]:
    with otel.use_span(
        started, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield started
        except BaseException as error:
            record_error(error, started)
            raise


def _otlp_processor() -> "SpanProcessor":
    # the SDK takes half a second to import
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _new_tracer(service: str, processor: "SpanProcessor") -> Tracer:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    resource = Resource.create(
        {
            "service.name": f"segue-{service}",
            "service.namespace": "segue",
            "service.version": service_version(),
        }
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("segue", service_version(), schema_url=SEMANTIC_CONVENTIONS)


def _clean(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name: redact(value) for name, value in attributes.items() if value is not None}
