"""The runbook repairs jobs that wait because the provider's API key expired."""

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replicate_server import ReplicateEmulator
from shared.http.server import free_ports
from tests.support.composed_clips import compose_cached
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually, records_of
from tests.support.replicate_provider import a_fake, account_of
from tests.support.runbook import RunbookOperator, addresses
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SCENES = [
    {"description": f"a {mood} moment", "duration_s": seconds}
    for mood, seconds in (("calm", 1.1), ("elegant", 1.7), ("dramatic", 1.25))
]
JOBS = ["night-1", "night-2", "night-3"]
PATIENCE_S = 3  # of a scene with a busy provider; the outage is longer
CHECKS = 12  # rejected checks of the key; each lane checks about once a second
WAIT_S = 120.0


@dataclass(kw_only=True)
class InvalidKeyFixture:
    """A pipeline, its emulator and the URL of the generator's health port."""

    pipeline: Pipeline
    provider: ReplicateEmulator
    generator: str

    async def generated(self, count: int) -> None:
        """Wait for `count` segments."""

        async def poll() -> bool | None:
            segments = await records_of(
                self.pipeline.kafka.bootstrap, "segment.generated", prefix=self.pipeline.prefix
            )
            return len(segments) >= count or None

        await eventually(poll, within_s=WAIT_S, what=f"{count} segments")

    async def waits(self, job_id: str) -> None:
        """Wait until the job's status is waiting."""

        async def poll() -> dict[str, Any] | None:
            status = await self.pipeline.status(job_id)
            return status if status is not None and status["waiting"] else None

        await eventually(poll, within_s=WAIT_S, what=f"{job_id} waits")

    async def outage(self) -> None:
        """Wait longer than a scene waits for a busy provider."""
        service = self.pipeline.services["generator"]
        wanted = service.count_logged("provider.paused") + CHECKS

        async def poll() -> bool | None:
            return service.count_logged("provider.paused") >= wanted or None

        await eventually(poll, within_s=WAIT_S, what=f"{CHECKS} checks of the key")

    async def cancelled(self) -> None:
        """Wait until the generator has skipped the cancelled job."""
        service = self.pipeline.services["generator"]

        async def poll() -> bool | None:
            return service.count_logged("record.skipped") > 0 or None

        await eventually(poll, within_s=WAIT_S, what="the cancelled job is skipped")

    async def restart_with(self, key: str) -> None:
        """Restart the generator with a new key."""
        service = self.pipeline.services["generator"]
        assert await service.stop() == 0
        service.environment["REPLICATE_API_KEY"] = key
        await service.start()


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[InvalidKeyFixture]:
    """Four services with an account; a rejected key is checked every second."""
    (port,) = free_ports(1)
    async with (
        a_fake(0.3, compose=compose_cached) as provider,
        running_pipeline(
            kafka,
            postgres,
            topic_prefix,
            tmp_path,
            of={"generator": {"SEGUE_HEALTH_PORT": str(port)}},
            SEGUE_REPLICATE_PROBE_S="1",
            SEGUE_SCENE_DEADLINE_S=str(PATIENCE_S),
            SEGUE_ATTEMPTS_MAX="3",
            SEGUE_BACKOFF_MAX_S="1",
            **account_of(provider),
        ) as pipeline,
    ):
        yield InvalidKeyFixture(
            pipeline=pipeline, provider=provider, generator=f"http://127.0.0.1:{port}"
        )


async def test_the_runbook_repairs_jobs_after_an_expired_key(
    fixture: InvalidKeyFixture,
) -> None:
    """Key restored, then replaced: every job completes, each scene is charged once, none silent."""
    operator = addresses(fixture.pipeline)
    for job in JOBS:
        await fixture.pipeline.generate(job_id=job, scenes=SCENES)
    await fixture.generated(2)
    fixture.provider.revoke()
    for job in JOBS:
        await fixture.waits(job)
    await fixture.pipeline.generate(job_id="unwanted", scenes=SCENES)
    await fixture.waits("unwanted")
    await fixture.outage()
    charged = len(fixture.provider.ledger.charged)

    stuck = RunbookOperator("a-job-is-stuck", operator, JOB=JOBS[2])
    await stuck.run_step()
    await stuck.run_step()
    stuck.assert_complete()
    behind = RunbookOperator("lag", operator)
    await behind.run_step()
    behind.assert_complete()
    stop = RunbookOperator("cancel-a-job", operator, JOB="unwanted")
    await stop.run_step()
    await stop.run_step()
    stop.assert_complete()
    await fixture.cancelled()  # before the key works: nothing of the job is charged
    mend = RunbookOperator(
        "the-provider-rejects-requests", operator, GENERATOR=fixture.generator, JOB=JOBS[2]
    )
    await mend.run_step()
    fixture.provider.restore()
    await mend.run_step()
    mend.assert_complete()
    ends = [await fixture.pipeline.ended(job) for job in JOBS]

    fixture.provider.tune(token="r8_" + "new" * 12)
    await fixture.pipeline.generate(job_id="morning", scenes=SCENES)
    await fixture.waits("morning")
    again = RunbookOperator(
        "the-provider-rejects-requests", operator, GENERATOR=fixture.generator, JOB="morning"
    )
    await again.run_step()
    await fixture.restart_with(fixture.provider.token)
    await again.run_step()
    again.assert_complete()
    ends.append(await fixture.pipeline.ended("morning"))
    paid = len(fixture.provider.ledger.charged)

    part = RunbookOperator("redrive-a-job", operator, JOB="morning")
    await part.run_step()
    await part.run_step()
    part.assert_complete()

    origins = [scene["origin"] for end in ends for scene in end["progress"]["scenes"]]
    scenes = len(SCENES) * (len(JOBS) + 1)
    sys.stdout.write(
        f"an expired key: {charged} scenes charged before, then {len(ends)} of"
        f" {len(JOBS) + 1} jobs completed, charged {paid} of"
        f" {scenes} scenes, silent {origins.count('silence')}\n"
    )
    assert [end["audio_status"]["status"] for end in ends] == ["completed"] * len(ends)
    assert origins == ["fresh", "continued", "continued"] * len(ends)
    assert paid == scenes
    assert len(fixture.provider.ledger.charged) == scenes + 1, "the regenerated scene"
    assert charged < scenes - len(SCENES)
