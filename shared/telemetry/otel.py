"""OpenTelemetry: spans made by its SDK and exported by OTLP; nothing else here knows it.

The SDK reads its own variables: `OTEL_EXPORTER_OTLP_…` (where to, with which headers), sampler,
batches, resource. Exceptions are never recorded whole: their messages and stacks quote addresses.

I/O: HTTP, from a thread of the SDK.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import NotFoundError
from shared.telemetry import service_version
from shared.telemetry.redaction import redacted
from shared.telemetry.trace import Attributes, Carried, Kind, Serving

SEMANTIC_CONVENTIONS = "https://opentelemetry.io/schemas/1.44.0"  # whose names the attributes are
REASON_CHARS_MAX = 300
_KINDS = {
    "internal": api.SpanKind.INTERNAL,
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
}
_W3C = TraceContextTextMapPropagator()


class _Span:
    """A span of the SDK in our words."""

    def __init__(self, span: api.Span) -> None:
        self.span = span

    def name(self, name: str) -> None:
        self.span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self.span.set_attributes(_clean(attributes))

    def failed(self, error: BaseException | str) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit | NotFoundError):
            return  # it was ended, or found that nothing is there: an answer, as a rule
        kind = error if isinstance(error, str) else type(error).__name__
        reason = redacted(str(error))[:REASON_CHARS_MAX]
        self.span.set_attribute("error.type", redacted(kind)[:REASON_CHARS_MAX])
        self.span.set_status(api.Status(api.StatusCode.ERROR, reason))

    def end(self) -> None:
        self.span.end()


class OpenTelemetry:
    """Makes spans; a service is a resource of its own, also where several share a process."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """`processor` None: what the environment says, in batches."""
        self._processor = processor or BatchSpanProcessor(OTLPSpanExporter())
        self._tracers: dict[str, api.Tracer] = {}

    @contextmanager
    def span(
        self, serving: Serving, name: str, *, kind: Kind, parent: Carried | None, about: Attributes
    ) -> Iterator[_Span]:
        """A span that everything inside belongs to."""
        made = self.begin(serving, name, kind=kind, parent=parent, about=about)
        with api.use_span(
            made.span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield made
            except BaseException as error:
                made.failed(error)
                raise

    def begin(
        self, serving: Serving, name: str, *, kind: Kind, parent: Carried | None, about: Attributes
    ) -> _Span:
        """A span that stands beside what goes on."""
        context = None if parent is None else _context_of(parent)
        tracer = self._tracers.get(serving.service) or self._tracer(serving.service)
        return _Span(
            tracer.start_span(name, context=context, kind=_KINDS[kind], attributes=_clean(about))
        )

    def current(self) -> _Span | None:
        """The span that goes on."""
        span = api.get_current_span()
        return _Span(span) if span.is_recording() else None

    def carried(self) -> Carried | None:
        """Its context."""
        told: dict[str, str] = {}
        _W3C.inject(told)
        return Carried.of(told.get("traceparent"), told.get("tracestate"))

    def close(self, *, within_s: float) -> None:
        """Export what is left; the SDK would wait for half a minute."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(within_s)

    def _tracer(self, service: str) -> api.Tracer:
        resource = Resource.create(
            {
                "service.name": f"segue-{service}",
                "service.namespace": "segue",
                "service.version": service_version(),
            }
        )
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        tracer = provider.get_tracer("segue", service_version(), schema_url=SEMANTIC_CONVENTIONS)
        self._tracers[service] = tracer
        return tracer


def _context_of(carried: Carried) -> Context:
    told = {"traceparent": carried.traceparent, "tracestate": carried.tracestate or ""}
    return _W3C.extract(told, context=Context())


def _clean(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name: redacted(value) for name, value in attributes.items() if value is not None}
