"""A busy service that gets SIGTERM exits cleanly within ten seconds."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from replicate_server import EmulatorSettings, ReplicateEmulator
from shared.clock import SystemClock
from shared.contract.events import Event, Origin
from shared.contract.params import AudioParams, VideoRef
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from shared.storage import StandInWarning
from tests.support.api_fixture import TWO_SCENES, free_port
from tests.support.event_builders import a_scene, a_segment
from tests.support.processes import Service, eventually, services
from tests.support.run_builders import a_track
from tests.support.servers import Database, KafkaServer
from tests.unit.shared.http.upstream_server import Answer, upstream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WITHIN_S = 10.0
RecordProperty = Callable[[str, object], None]  #: adds a property to the report
WORKS_S = 60.0


class ShutdownFixture:
    """A topic prefix and the environment of a service."""

    def __init__(self, kafka: KafkaServer, prefix: str, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.kafka = KafkaSettings(
            bootstrap_servers=kafka.bootstrap, topic_prefix=prefix, create_topics=kafka.real
        )
        self.environment = {
            **kafka.environment(),
            "SEGUE_TOPIC_PREFIX": prefix,
            "SEGUE_STORE_DIR": str(folder / "store"),
            "SEGUE_SESSION_TIMEOUT_S": "6",
            "SEGUE_HEARTBEAT_S": "1",
            "SEGUE_HEALTH_PORT": str(self.port),
        }

    async def publish(self, *events: Event) -> None:
        """Publish events as other services do."""
        await ensure_topics(self.kafka)
        publisher = Publisher(self.kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            for event in events:
                await publisher.publish(event)
        finally:
            await publisher.stop()

    @asynccontextmanager
    async def working(self, name: str, **settings: str) -> AsyncIterator[Service]:
        """Run a service that has a record in flight."""
        variables = {**self.environment, **settings}
        async with services(name, environment=variables, folder=self.folder) as started:
            async with httpx.AsyncClient() as client:

                async def busy() -> bool | None:
                    try:
                        answer = await client.get(f"http://127.0.0.1:{self.port}/readyz")
                    except httpx.TransportError:
                        return None
                    return bool(answer.json()["figures"].get("records_in_flight")) or None

                await eventually(busy, within_s=WORKS_S, what=f"{name} has work")
            yield started[name]


@pytest.fixture
def fixture(kafka: KafkaServer, topic_prefix: str, tmp_path: Path) -> ShutdownFixture:
    """Return a fixture with new topics and a new folder."""
    return ShutdownFixture(kafka, topic_prefix, tmp_path)


async def _stopped(service: Service, record_property: RecordProperty) -> float:
    """Return the seconds from the signal to a clean exit."""
    started = time.monotonic()
    code = await service.stop()
    took_s = time.monotonic() - started
    record_property(f"{service.name}: seconds", round(took_s, 2))
    log = service.log.read_text()
    assert code == 0, log[-2000:]
    assert "Traceback" not in log
    assert service.count_logged("service.stopped") == 1
    return took_s


async def test_a_generator_stops_while_it_waits_for_a_prediction(
    fixture: ShutdownFixture, record_testsuite_property: RecordProperty
) -> None:
    """The prediction continues at the provider; another generator adopts it."""
    with pytest.warns(StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=300.0))
    async with fake:
        await fixture.publish(a_scene(0))
        async with fixture.working(
            "generator",
            MUSIC_PROVIDER="replicate",
            REPLICATE_API_KEY=fake.token,
            REPLICATE_BASE_URL=fake.base_url,
        ) as generator:

            async def has_prediction() -> bool | None:
                return bool(fake.predictions) or None

            await eventually(has_prediction, within_s=WORKS_S, what="a prediction")
            assert await _stopped(generator, record_testsuite_property) < WITHIN_S
        assert [prediction["status"] for prediction in fake.predictions] == ["processing"]


async def test_a_merger_stops_while_ffmpeg_runs(
    fixture: ShutdownFixture, tmp_path: Path, record_testsuite_property: RecordProperty
) -> None:
    """The ffmpeg process ends, too."""
    pid = tmp_path / "pid"
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\necho $$ >> {pid}\nexec sleep 300\n")
    ffmpeg.chmod(0o755)
    silent = a_segment(0, count=1, origin=Origin.SILENCE, object_key=None, clip_samples=0)
    await fixture.publish(silent)
    async with fixture.working("merger", FFMPEG=str(ffmpeg)) as merger:

        async def ffmpeg_runs() -> bool | None:
            return (pid.exists() and bool(pid.read_text().strip())) or None

        await eventually(ffmpeg_runs, within_s=WORKS_S, what="ffmpeg runs")
        assert await _stopped(merger, record_testsuite_property) < WITHIN_S

    for number in pid.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)


async def test_a_muxer_stops_while_it_waits_for_a_video(
    fixture: ShutdownFixture, record_testsuite_property: RecordProperty
) -> None:
    """The server accepted the request and sends nothing."""
    async with upstream() as other:
        other.answers["/film.mp4"] = Answer(silent=True)
        track = a_track(params=AudioParams(merge_with_video=True)).model_copy(
            update={"video": VideoRef(url=f"http://127.0.0.1:{other.port}/film.mp4")}
        )
        await fixture.publish(track)
        async with fixture.working("muxer", SEGUE_FETCH_PRIVATE_HOSTS="127.0.0.1") as muxer:

            async def video_requested() -> bool | None:
                return bool(other.requests) or None

            await eventually(video_requested, within_s=WORKS_S, what="the video is requested")
            assert await _stopped(muxer, record_testsuite_property) < WITHIN_S


async def test_an_api_stops_with_an_open_stream_and_an_upload(
    fixture: ShutdownFixture, postgres: Database, record_testsuite_property: RecordProperty
) -> None:
    """It waits for neither."""
    variables = {
        **fixture.environment,
        "DATABASE_URL": await postgres(),
        "SEGUE_API_PORT": str(fixture.port),
        "SEGUE_SEGMENT_KEYS": "a secret for tests only",
    }
    base = f"http://127.0.0.1:{fixture.port}"
    async with (
        services("api", environment=variables, folder=fixture.folder) as started,
        httpx.AsyncClient(base_url=base, timeout=30) as client,
    ):

        async def ready() -> bool | None:
            try:
                return (await client.get("/readyz")).is_success or None
            except httpx.TransportError:
                return None

        await eventually(ready, within_s=WORKS_S, what="readyz")
        body = {"job_id": "j", "scenes": TWO_SCENES}
        (await client.post("/api/v3/audio/generate-scenes", json=body)).raise_for_status()

        async def film() -> AsyncIterator[bytes]:
            yield b"\0" * 1000
            await asyncio.Event().wait()

        upload = asyncio.create_task(client.post("/api/v3/videos", content=film()))
        async with client.stream("GET", "/api/v3/audio/status/j/events") as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("retry:")
            assert await _stopped(started["api"], record_testsuite_property) < WITHIN_S
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)
