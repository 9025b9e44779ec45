"""Clocks that are set forward and back by an hour: nothing ends early, nothing is paid twice."""

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
JOBS = 2  # at each time


class JumpingService(Service):
    """A service whose clock can be set."""

    @override
    def command(self) -> Sequence[str]:
        return ("tests.faults.harness.clock_service", self.name)


@asynccontextmanager
async def jumping_pipeline(
    kafka: KafkaServer, postgres: Database, prefix: str, folder: Path
) -> AsyncIterator[tuple[Pipeline, ReplicateEmulator]]:
    """Four services with one clock, and a provider with the right one."""
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


async def _at_work(replicate: ReplicateEmulator) -> None:
    """Wait until the provider is at it."""

    async def look() -> bool | None:
        return any(one["status"] == "processing" for one in replicate.predictions) or None

    await eventually(look, within_s=60, what="a prediction at work")


async def _worked_off(
    pipeline: Pipeline, replicate: ReplicateEmulator, clock: Path, jumps: Sequence[float]
) -> Counter[str]:
    """Jobs are asked for, and the clock is set while they are made; how they ended."""
    ends: Counter[str] = Counter()
    for number, seconds in enumerate(jumps):
        names = [f"{number}-{job}" for job in range(JOBS)]
        for name in names:
            await pipeline.generate(job_id=name, scenes=TWO_SCENES)
        await _at_work(replicate)
        set_clock(clock, seconds)
        for name in names:
            told = await pipeline.ended(name)
            ends[told["audio_status"]["status"]] += 1
    return ends


async def test_a_clock_that_is_set_by_an_hour_changes_nothing(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """Forward, back, and right again: every job is done, each scene asked and paid for once."""
    async with jumping_pipeline(kafka, postgres, topic_prefix, tmp_path) as (pipeline, fake):
        ends = await _worked_off(pipeline, fake, tmp_path / "clock", (HOUR_S, -HOUR_S, 0.0))
        charged, asked = len(fake.ledger.charged), len(fake.ledger.entries)
    scenes = 3 * JOBS * len(TWO_SCENES)
    sys.stdout.write(
        f"clocks set by +1 h, -1 h and back: {ends['completed']} of {3 * JOBS} jobs completed,"
        f" charged {charged} of {scenes} scenes, predictions asked for {asked}\n"
    )

    assert ends == {"completed": 3 * JOBS}
    assert charged == asked == scenes


async def test_a_link_lives_as_long_as_was_said_whatever_the_clock_says(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """Half an hour: an hour's jump does not end it, and neither does one back."""
    async with jumping_pipeline(kafka, postgres, topic_prefix, tmp_path) as (pipeline, _):
        await pipeline.generate(job_id="j", scenes=TWO_SCENES)
        told = await pipeline.ended("j")
        [first, _] = [scene["links"]["segment"] for scene in told["progress"]["scenes"]]
        answers = []
        for seconds in (0.0, HOUR_S, -HOUR_S, 0.0):
            set_clock(tmp_path / "clock", seconds)
            answers.append((await pipeline.client.get(first)).status_code)
        ready = (await pipeline.client.get("/readyz")).status_code

    assert answers == [200] * 4
    assert ready == 200
