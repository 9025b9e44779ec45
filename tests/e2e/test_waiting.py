"""A job that waits for its provider says so, in the provider's words, and goes on by itself."""

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
NO_KEY = "No Replicate API key configured"
Ask = Callable[[], Awaitable[httpx.Response]]
SOON_S = 15.0  # a person looks and sees it


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """A fake that works for half a second."""
    async with a_fake(0.5) as started:
        yield started


class WaitingFixture:
    """The line, and the generator's health port."""

    def __init__(self, pipeline: Pipeline, port: int) -> None:
        self.pipeline = pipeline
        self._generator = f"http://127.0.0.1:{port}/readyz"

    async def generator(self) -> httpx.Response:
        """What its readyz says."""
        async with httpx.AsyncClient(timeout=10) as client:
            return await client.get(self._generator)

    async def api(self) -> httpx.Response:
        """What the api's readyz says."""
        return await self.pipeline.client.get("/readyz")

    async def waits(self, job_id: str) -> dict[str, Any]:
        """The status, once the job waits."""

        async def look() -> dict[str, Any] | None:
            told = await self.pipeline.status(job_id)
            return told if told is not None and told["waiting"] is not None else None

        return await eventually(look, within_s=SOON_S, what=f"{job_id} waits")

    async def publish(self, event: Event) -> None:
        """As somebody else would."""
        kafka = KafkaSettings(
            bootstrap_servers=self.pipeline.kafka.bootstrap, topic_prefix=self.pipeline.prefix
        )
        publisher = Publisher(kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            await publisher.publish(event)
        finally:
            await publisher.stop()

    async def works(self, ask: Ask) -> dict[str, Any]:
        """What a readyz says, once all is well again."""

        async def look() -> dict[str, Any] | None:
            answer = await ask()
            told: dict[str, Any] = answer.json()
            return told if all(check["ok"] for check in told["checks"].values()) else None

        return await eventually(look, within_s=SOON_S, what="readyz is content")


@pytest.fixture
async def fixture(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    tmp_path: Path,
    replicate: ReplicateEmulator,
) -> AsyncIterator[WaitingFixture]:
    """Four services; a refused key is asked about every second."""
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


async def test_a_revoked_key_is_shown_everywhere_and_its_return_ends_it(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """Revoked before the first scene: status, events, both readyz; then as if nothing had been."""
    replicate.revoke()
    await fixture.pipeline.generate(job_id="revoked", scenes=SCENES)
    told = await fixture.waits("revoked")
    generator, api = await paused(fixture.generator), await paused(fixture.api)
    async with fixture.pipeline.client.stream("GET", told["links"]["events"]) as stream:
        lines = [line async for line in _until_data(stream)]
    other = await fixture.pipeline.generate(job_id="another", scenes=SCENES[:1])

    replicate.restore()
    ended = await fixture.pipeline.ended("revoked")
    await fixture.pipeline.ended("another")
    well, content = await fixture.works(fixture.generator), await fixture.works(fixture.api)

    scene = told["progress"]["scenes"][0]
    assert scene["state"] == "generating"
    assert scene["waiting"] == told["waiting"]
    assert told["waiting"]["code"] == "provider_paused"
    assert NO_KEY in told["waiting"]["reason"]
    assert [one["waiting"] for one in told["progress"]["scenes"][1:]] == [None, None]
    assert '"provider_paused"' in lines[-1]
    assert generator.status_code == 503
    assert NO_KEY in generator.json()["checks"]["provider"]["detail"]
    assert generator.json()["figures"]["lanes"] >= 1
    assert api.status_code == 200, "intake goes on"
    assert api.json()["ready"] is True
    assert api.json()["checks"]["provider"]["ok"] is False
    assert NO_KEY in api.json()["checks"]["provider"]["detail"]
    assert other.status_code == 202
    assert ended["audio_status"]["status"] == "completed", ended
    assert ended["waiting"] is None
    assert [one["waiting"] for one in ended["progress"]["scenes"]] == [None] * 3
    assert well["ready"] is True
    assert content["ready"] is True
    assert len(replicate.ledger.charged) == len(SCENES) + 1


async def test_a_key_that_is_revoked_in_the_middle_is_said_and_over_when_it_works(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """The first scene is made; what is said begins and ends, in this order, once each."""
    await fixture.pipeline.generate(job_id="middle", scenes=SCENES)

    async def one() -> bool | None:
        found = await records_of(
            fixture.pipeline.kafka.bootstrap, "segment.generated", prefix=fixture.pipeline.prefix
        )
        return bool(found) or None

    await eventually(one, within_s=60, what="the first segment")
    replicate.revoke()
    await fixture.waits("middle")
    replicate.restore()
    ended = await fixture.pipeline.ended("middle")

    delays = await records_of(
        fixture.pipeline.kafka.bootstrap, "scene.delayed", prefix=fixture.pipeline.prefix
    )
    said = [(value_of(one)["code"], value_of(one)["over"]) for one in delays]
    assert ended["audio_status"]["status"] == "completed", ended
    assert ended["waiting"] is None
    assert said == [("provider_paused", False), ("provider_paused", True)]
    assert len(replicate.ledger.charged) == len(SCENES)


async def test_a_job_that_is_cancelled_while_it_waits_waits_no_more(
    fixture: WaitingFixture, replicate: ReplicateEmulator
) -> None:
    """Its status is its end, and nobody is shown as held up by it."""
    replicate.revoke()
    await fixture.pipeline.generate(job_id="cancelled", scenes=SCENES)
    await fixture.waits("cancelled")
    await fixture.publish(JobCancelled(job_id="cancelled", run=1, reason="enough"))
    ended = await fixture.pipeline.ended("cancelled")
    content = await fixture.works(fixture.api)

    assert ended["audio_status"]["status"] == "cancelled"
    assert ended["waiting"] is None
    assert content["checks"]["provider"]["ok"] is True
    assert replicate.ledger.charged == []


async def paused(ask: Ask) -> httpx.Response:
    """What a readyz says, once it knows of the pause."""

    async def look() -> httpx.Response | None:
        answer = await ask()
        return None if answer.json()["checks"]["provider"]["ok"] else answer

    return await eventually(look, within_s=SOON_S, what="readyz tells the pause")


async def _until_data(stream: httpx.Response) -> AsyncIterator[str]:
    async for line in stream.aiter_lines():
        yield line
        if line.startswith("data:"):
            return
