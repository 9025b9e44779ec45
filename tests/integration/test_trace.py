"""One trace from the request to the video, through outbox, Kafka, lanes and four services."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.generator.app import run as run_generator
from services.generator.settings import GeneratorSettings
from services.merger.app import run as run_merger
from services.merger.settings import MergerSettings
from services.muxer.app import run as run_muxer
from services.muxer.settings import MuxerSettings
from shared.settings import StoreSettings
from shared.telemetry import trace
from tests.support.api_fixture import TWO_SCENES, running_api
from tests.support.api_service import ApiServiceFixture, reached
from tests.support.film_clips import film_clips
from tests.support.fork_server import REPOSITORY
from tests.support.processes import records_of
from tests.support.servers import Database, KafkaServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::shared.storage.StandInWarning"),  # the synthesizer
]
READY_S = 60.0
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
async def fixture(
    kafka: KafkaServer, topic_prefix: str, postgres: Database, tmp_path: Path
) -> ApiServiceFixture:
    """Return a fixture with a new database, new topics and a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, tmp_path / "store")


@asynccontextmanager
async def all_services(fixture: ApiServiceFixture) -> AsyncIterator[httpx.AsyncClient]:
    """Run api, generator, merger and muxer in this process; yield a client of the api."""
    common: dict[str, Any] = {
        "kafka": fixture.broker(),
        "store": StoreSettings(folder=fixture.folder),
    }
    entry_points: list[Any] = [
        (run_generator, GeneratorSettings(**common, scene_cache="off", wanted="synth")),
        (run_merger, MergerSettings(**common)),
        (run_muxer, MuxerSettings(**common)),
    ]
    stop, ready = asyncio.Event(), [asyncio.Event() for _ in entry_points]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(running_api(fixture.settings()))
        tasks = [
            asyncio.create_task(run(settings, stop=stop, ready=up))
            for (run, settings), up in zip(entry_points, ready, strict=True)
        ]
        try:
            async with asyncio.timeout(READY_S):
                for up in ready:
                    await up.wait()
            yield client
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def score_video(client: httpx.AsyncClient, **headers: str) -> None:
    """Request a job with a video; return once it is completed."""
    film = film_clips().carphone.read_bytes()
    video = (await client.post("/api/v3/videos", content=film)).json()["video"]
    answer = await client.post(
        "/api/v3/audio/generate-scenes",
        json={
            "job_id": "film",
            "scenes": TWO_SCENES,
            "video": video,
            "audio_params": {"merge_with_video": True},
        },
        headers=headers,
    )
    assert answer.status_code == 202, answer.text
    await reached(client, "film", "completed")


def names_by_service(spans: Sequence[ReadableSpan]) -> set[tuple[str, str]]:
    """Return the service and the name of each span."""
    return {(str(span.resource.attributes["service.name"]), span.name) for span in spans}


async def test_one_trace_covers_the_job_from_request_to_video(
    fixture: ApiServiceFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues the caller's trace, every parent exists, and every service has spans in it."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(trace, "_sdk", None)
    trace.install(SimpleSpanProcessor(exporter))
    async with all_services(fixture) as client:
        await score_video(client, traceparent=CALLER, tracestate="vendor=x")

    spans = [
        span
        for span in exporter.get_finished_spans()
        if span.context is not None and span.context.trace_id == int(TRACE_ID, 16)
    ]
    known = {span.context.span_id for span in spans if span.context is not None}
    outside = {span.parent.span_id for span in spans if span.parent is not None} - known
    assert {f"{span_id:016x}" for span_id in outside} == {"b7ad6b7169203331"}
    assert names_by_service(spans) >= {
        ("segue-api", "POST /api/v3/audio/generate-scenes"),
        ("segue-api", "send scene.requested"),
        ("segue-generator", "process scene.requested"),
        ("segue-generator", "provider submit"),
        ("segue-generator", "provider collect"),
        ("segue-generator", "store put"),
        ("segue-generator", "send segment.generated"),
        ("segue-merger", "process segment.generated"),
        ("segue-merger", "join clips"),
        ("segue-merger", "master track"),
        ("segue-merger", "ffmpeg"),
        ("segue-merger", "send audio.merged"),
        ("segue-muxer", "process audio.merged"),
        ("segue-muxer", "fetch video"),
        ("segue-muxer", "mux video"),
        ("segue-muxer", "send video.muxed"),
        ("segue-api", "process video.muxed"),
    }
    (request_span,) = [span for span in spans if span.name.startswith("POST /api/v3/audio")]
    assert (request_span.attributes or {})["segue.job_id"] == "film"
    (last_span,) = [span for span in spans if span.name == "process video.muxed"]
    assert last_span.attributes is not None
    attributes = dict(last_span.attributes)
    assert attributes["messaging.system"] == "kafka"
    assert attributes["messaging.destination.name"] == f"{fixture.prefix}video.muxed"
    assert attributes["messaging.consumer.group.name"] == f"{fixture.prefix}segue-api"
    assert attributes["segue.job_id"] == "film"
    records = await records_of(fixture.kafka.bootstrap, "video.muxed", prefix=fixture.prefix)
    assert [record.header("tracestate") for record in records] == ["vendor=x"]


async def test_with_tracing_off_the_callers_context_is_passed_on(
    fixture: ApiServiceFixture,
) -> None:
    """The last event has the request's traceparent and tracestate unchanged."""
    async with all_services(fixture) as client:
        await score_video(client, traceparent=CALLER, tracestate="vendor=x")

    records = await records_of(
        fixture.kafka.bootstrap, "scene.requested", "video.muxed", prefix=fixture.prefix
    )
    assert len(records) == 3
    assert {record.header("traceparent") for record in records} == {CALLER}
    assert {record.header("tracestate") for record in records} == {"vendor=x"}


def test_with_tracing_off_no_sdk_is_imported() -> None:
    """Importing the SDK would slow down every start."""
    program = """
import sys
from shared.settings import TelemetrySettings
from shared.telemetry import trace
import services.api.app, services.generator.app, services.merger.app, services.muxer.app
trace.configure(TelemetrySettings.from_environment(), service="api")
paid = ("opentelemetry.sdk", "opentelemetry.exporter")
print([name for name in sys.modules if name.startswith(paid)])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.strip() == "[]"
