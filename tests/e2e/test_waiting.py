"""A job that waits for its provider reports the reason, and resumes without intervention."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicate_server import ReplicateEmulator
from shared.clock import SystemClock
from shared.contract.events import Event, JobCancelled
from shared.http.server import free_ports
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.replicate_provider import a_fake, account_of
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SCENES = [
    {"description": f"a {mood} moment", "duration_s": seconds}
    for mood, seconds in (("calm", 1.7), ("elegant", 2.3), ("dramatic", 1.25))
]
REJECTED = "Replicate rejected the API key"
ReadReadiness = Callable[[], Awaitable[httpx.Response]]
SOON_S = 15.0  # acceptable delay for a person who watches


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """Yield an emulator that works 0.5 s on each prediction."""
    async with a_fake(0.5) as started:
        yield started


class WaitingFixture:
    """The four running services, with the generator's readiness."""

    def __init__(self, pipeline: Pipeline, port: int) -> None:
        self.pipeline = pipeline
        self._generator = f"http://127.0.0.1:{port}/readyz"

    async def generator_readiness(self) -> httpx.Response:
        """Return the generator's `readyz` response."""
        async with httpx.AsyncClient(timeout=10) as client:
            return await client.get(self._generator)

    async def api_readiness(self) -> httpx.Response:
        """Return the api's `readyz` response."""
        return await self.pipeline.client.get("/readyz")

    async def waiting_status(self, job_id: str) -> dict[str, Any]:
        """Wait until the job waits; return its status."""

        async def poll() -> dict[str, Any] | None:
            status = await self.pipeline.status(job_id)
            return status if status is not None and status["waiting"] is not None else None

        return await eventually(poll, within_s=SOON_S, what=f"{job_id} waits")

    async def publish(self, event: Event) -> None:
        """Publish an event as another producer."""
        kafka = KafkaSettings(
            bootstrap_servers=self.pipeline.kafka.bootstrap, topic_prefix=self.pipeline.prefix
        )
        publisher = Publisher(kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            await publisher.publish(event)
        finally:
            await publisher.stop()


@pytest.fixture
async def fixture(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    tmp_path: Path,
    replicate: ReplicateEmulator,
) -> AsyncIterator[WaitingFixture]:
    """Yield four running services; the generator probes a rejected key every second."""
    (port,) = free_ports(1)
    async with running_pipeline(
        kafka,
        postgres,
        topic_prefix,
        tmp_path,
        of={"generator": {"SEGUE_HEALTH_PORT": str(port)}},
        SEGUE_REPLICATE_PROBE_S="1",
        **account_of(replicate),
    ) as pipeline:
        yield WaitingFixture(pipeline, port)


async def test_status_events_and_readyz_report_a_revoked_key_until_it_is_restored(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """The key is revoked before the first scene; new jobs are accepted meanwhile."""
    replicate.revoke()
    await fixture.pipeline.generate(job_id="revoked", scenes=SCENES)
    status = await fixture.waiting_status("revoked")
    generator = await paused(fixture.generator_readiness)
    api = await paused(fixture.api_readiness)
    async with fixture.pipeline.client.stream("GET", status["links"]["events"]) as stream:
        lines = [line async for line in _until_data(stream)]
    other = await fixture.pipeline.generate(job_id="another", scenes=SCENES[:1])

    replicate.restore()
    ended = await fixture.pipeline.ended("revoked")
    await fixture.pipeline.ended("another")
    generator_after = await healthy(fixture.generator_readiness)
    api_after = await healthy(fixture.api_readiness)

    first, *later = status["progress"]["scenes"]
    assert first["state"] == "generating"
    assert first["waiting"] == status["waiting"]
    assert status["waiting"]["code"] == "provider_paused"
    assert REJECTED in status["waiting"]["reason"]
    assert [scene["waiting"] for scene in later] == [None, None]
    assert '"provider_paused"' in lines[-1]
    assert generator.status_code == 503
    assert REJECTED in generator.json()["checks"]["provider"]["detail"]
    assert generator.json()["figures"]["lanes"] >= 1
    assert api.status_code == 200, "the api accepts jobs while the provider is paused"
    assert api.json()["ready"] is True
    assert api.json()["checks"]["provider"]["ok"] is False
    assert REJECTED in api.json()["checks"]["provider"]["detail"]
    assert other.status_code == 202
    assert ended["audio_status"]["status"] == "completed", ended
    assert ended["waiting"] is None
    assert [scene["waiting"] for scene in ended["progress"]["scenes"]] == [None] * 3
    assert generator_after["ready"] is True
    assert api_after["ready"] is True
    assert len(replicate.ledger.charged) == len(SCENES) + 1


async def test_a_delay_is_published_once_when_it_starts_and_once_when_it_ends(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """The key is revoked after the first scene, and restored."""
    await fixture.pipeline.generate(job_id="middle", scenes=SCENES)

    async def segment_generated() -> bool | None:
        segments = await records_of(
            fixture.pipeline.kafka.bootstrap, "segment.generated", prefix=fixture.pipeline.prefix
        )
        return bool(segments) or None

    await eventually(segment_generated, within_s=60, what="the first segment")
    replicate.revoke()
    await fixture.waiting_status("middle")
    replicate.restore()
    ended = await fixture.pipeline.ended("middle")

    records = await records_of(
        fixture.pipeline.kafka.bootstrap, "scene.delayed", prefix=fixture.pipeline.prefix
    )
    delays = [(value["code"], value["over"]) for value in map(value_of, records)]
    assert ended["audio_status"]["status"] == "completed", ended
    assert ended["waiting"] is None
    assert delays == [("provider_paused", False), ("provider_paused", True)]
    assert len(replicate.ledger.charged) == len(SCENES)


async def test_a_job_cancelled_while_it_waits_is_no_longer_reported_as_waiting(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """The api's `readyz` reports no paused provider."""
    replicate.revoke()
    await fixture.pipeline.generate(job_id="cancelled", scenes=SCENES)
    await fixture.waiting_status("cancelled")
    await fixture.publish(JobCancelled(job_id="cancelled", run=1, reason="enough"))
    ended = await fixture.pipeline.ended("cancelled")
    readiness = await healthy(fixture.api_readiness)

    assert ended["audio_status"]["status"] == "cancelled"
    assert ended["waiting"] is None
    assert readiness["checks"]["provider"]["ok"] is True
    assert replicate.ledger.charged == []


async def paused(read: ReadReadiness) -> httpx.Response:
    """Wait until `readyz` reports a paused provider; return the response."""

    async def poll() -> httpx.Response | None:
        response = await read()
        return None if response.json()["checks"]["provider"]["ok"] else response

    return await eventually(poll, within_s=SOON_S, what="readyz reports the pause")


async def healthy(read: ReadReadiness) -> dict[str, Any]:
    """Wait until every check of `readyz` passes; return its body."""

    async def poll() -> dict[str, Any] | None:
        body: dict[str, Any] = (await read()).json()
        return body if all(check["ok"] for check in body["checks"].values()) else None

    return await eventually(poll, within_s=SOON_S, what="every check of readyz passes")


async def _until_data(stream: httpx.Response) -> AsyncIterator[str]:
    async for line in stream.aiter_lines():
        yield line
        if line.startswith("data:"):
            return
