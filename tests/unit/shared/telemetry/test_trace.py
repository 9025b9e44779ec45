"""Trace context of records, spans, and the end of tracing."""

import asyncio
import time
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.errors import JobError, SettingsError
from shared.kafka.codec import Record
from shared.kafka.tracing import process_span, send_span, with_trace_context
from shared.settings import TelemetrySettings
from shared.telemetry import trace
from shared.telemetry.trace import TraceContext
from tests.support.trace_collector import collector

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SENT = (("ce_id", b"1"), ("traceparent", CALLER.encode()), ("tracestate", b"a=1"))


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Collect the spans while tracing is on."""
    spans = InMemorySpanExporter()
    monkeypatch.setattr(trace, "_sdk", None)  # undone at the end of the test
    trace.install(SimpleSpanProcessor(spans))
    return spans


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_environment_turns_tracing_on(
    environment: dict[str, str], *, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variables of OpenTelemetry; off by default."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert TelemetrySettings.from_environment().traces_wanted is wanted


def test_unsupported_protocol_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces that are silently dropped would be worse."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        TelemetrySettings.from_environment()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00-trace",
        f"ff-{TRACE_ID}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-b7ad6b7169203331-01",
        CALLER + "x" * 5000,
    ],
)
def test_invalid_traceparent_is_ignored(text: str | None) -> None:
    """A client may send any header."""
    assert trace.extract(text) == TraceContext()


def test_too_long_tracestate_is_dropped() -> None:
    """The trace itself continues."""
    with trace.continue_trace(trace.extract(CALLER, "a=" + "1" * 600), "work", kind="consumer"):
        assert trace.current_headers() == {"traceparent": CALLER}


@pytest.mark.parametrize("is_on", [False, True])
def test_published_record_continues_the_trace_of_the_processed_one(
    *, is_on: bool, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off: the caller's headers, unchanged. On: the sending span, in the same trace."""
    if not is_on:
        trace.install(None)
    record = Record(
        topic="scene.requested", partition=0, offset=7, key=b"film", value=b"{}", headers=SENT
    )

    with process_span(record), send_span("segment.generated", key=b"film", headers=()) as sending:
        headers = {name: value or b"" for name, value in sending.headers}

    assert headers["tracestate"] == b"a=1"
    assert trace.extract(headers["traceparent"].decode()) != TraceContext()
    assert headers["traceparent"].decode().split("-")[1] == TRACE_ID
    assert (headers["traceparent"].decode() == CALLER) is not is_on
    assert with_trace_context(()) == ()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == (["send segment.generated", "process scene.requested"] if is_on else [])


def test_dead_letter_keeps_its_trace_headers(exporter: InMemorySpanExporter) -> None:
    """A requeue continues its trace."""
    record = Record(topic="scene.requested", partition=0, offset=7, key=b"film", value=b"{}")

    with (
        process_span(record),
        send_span("scene.requested.dlq", key=b"film", headers=SENT) as sending,
    ):
        assert sending.headers == SENT


def test_failed_span_has_a_redacted_reason(exporter: InMemorySpanExporter) -> None:
    """The error type and its message; no stack."""
    with (
        pytest.raises(JobError),
        trace.span("provider collect", {"segue.url": "https://x/y?X-Amz-Signature=not-hex"}),
    ):
        raise JobError("PUT https://store/x?X-Amz-Signature=not-hex was refused")

    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "JobError"
    assert span.status.description == "PUT https://store/x?… was refused"
    assert "not-hex" not in span.to_json()
    assert not span.events


async def test_close_does_not_wait_for_a_collector_that_never_answers(
    record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would wait for up to 30 s; a stop has ten seconds for everything."""
    async with collector() as traces:
        traces.silent.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint)
        monkeypatch.setattr(trace, "_sdk", None)
        monkeypatch.setattr(trace, "_process", trace.current_service())
        trace.configure(TelemetrySettings.from_environment(), service="test")
        with trace.span("work"):
            pass
        started_s = time.monotonic()

        await asyncio.to_thread(trace.close)

        took_s = time.monotonic() - started_s
        record_property("seconds", round(took_s, 2))
        assert took_s < 2
        assert traces.bodies
        assert not trace.is_on()
