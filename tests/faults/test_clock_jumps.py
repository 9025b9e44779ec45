"""Wall clocks shifted by an hour: nothing times out early, nothing is paid twice."""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from replicate_server import EmulatorSettings, ReplicateEmulator
from shared.storage import StandInWarning
from tests.faults.harness.clock_service import VARIABLE, set_clock
from tests.support.api_fixture import TWO_SCENES
from tests.support.pipeline_fixture import SERVICES, Pipeline, running_pipeline
from tests.support.processes import Service, eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
HOUR_S = 3600.0
WORK_S = 2.0
JOBS = 2  # per shift


class JumpingService(Service):
    """A service whose wall clock can be shifted."""

    @override
    def command(self) -> Sequence[str]:
        return ("tests.faults.harness.clock_service", self.name)


@asynccontextmanager
async def jumping_pipeline(
    kafka: KafkaServer, postgres: Database, prefix: str, folder: Path
) -> AsyncIterator[tuple[Pipeline, ReplicateEmulator]]:
    """Start four services with a shifted clock, and an emulator without."""
    folder.mkdir(exist_ok=True)
    set_clock(folder / "clock", 0)
    with pytest.warns(StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=WORK_S))
    async with (
        fake as replicate,
        running_pipeline(
            kafka,
            postgres,
            prefix,
            folder,
            kind=JumpingService,
            of={name: {VARIABLE: str(folder / "clock")} for name in SERVICES},
            MUSIC_PROVIDER="",
            REPLICATE_API_KEY=replicate.token,
            REPLICATE_BASE_URL=replicate.base_url,
            SEGUE_REPLICATE_STARTS_PER_S="10",
            SEGUE_CLAIM_SETTLE_S="17",
            SEGUE_CLAIM_LEASE_S="2",
        ) as pipeline,
    ):
        yield pipeline, replicate


async def _until_processing(replicate: ReplicateEmulator) -> None:
    """Wait until the emulator processes a prediction."""

    async def poll() -> bool | None:
        return any(p["status"] == "processing" for p in replicate.predictions) or None

    await eventually(poll, within_s=60, what="a prediction at work")


async def _statuses_of_jobs(
    pipeline: Pipeline, replicate: ReplicateEmulator, clock: Path, jumps: Sequence[float]
) -> Counter[str]:
    """Request jobs and shift the clock while they run; return how they ended."""
    ends: Counter[str] = Counter()
    for number, seconds in enumerate(jumps):
        names = [f"{number}-{job}" for job in range(JOBS)]
        for name in names:
            await pipeline.generate(job_id=name, scenes=TWO_SCENES)
        await _until_processing(replicate)
        set_clock(clock, seconds)
        for name in names:
            status = await pipeline.ended(name)
            ends[status["audio_status"]["status"]] += 1
    return ends


async def test_jobs_complete_and_are_charged_once_while_the_clock_jumps(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """Forward, back and reset: every job completes, each scene is requested and charged once."""
    async with jumping_pipeline(kafka, postgres, topic_prefix, tmp_path) as (pipeline, fake):
        ends = await _statuses_of_jobs(pipeline, fake, tmp_path / "clock", (HOUR_S, -HOUR_S, 0.0))
        charged, requested = len(fake.ledger.charged), len(fake.ledger.entries)
    scenes = 3 * JOBS * len(TWO_SCENES)
    sys.stdout.write(
        f"clocks shifted by +1 h, -1 h and back: {ends['completed']} of {3 * JOBS} jobs completed,"
        f" charged {charged} of {scenes} scenes, predictions requested {requested}\n"
    )

    assert ends == {"completed": 3 * JOBS}
    assert charged == requested == scenes


async def test_a_signed_link_is_valid_while_the_clock_jumps(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """Its lifetime is half an hour: a jump by an hour, forward or back, does not end it."""
    async with jumping_pipeline(kafka, postgres, topic_prefix, tmp_path) as (pipeline, _):
        await pipeline.generate(job_id="j", scenes=TWO_SCENES)
        status = await pipeline.ended("j")
        [first, _] = [scene["links"]["segment"] for scene in status["progress"]["scenes"]]
        answers = []
        for seconds in (0.0, HOUR_S, -HOUR_S, 0.0):
            set_clock(tmp_path / "clock", seconds)
            answers.append((await pipeline.client.get(first)).status_code)
        ready = (await pipeline.client.get("/readyz")).status_code

    assert answers == [200] * 4
    assert ready == 200
