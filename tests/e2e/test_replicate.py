"""The real client against a Replicate that speaks its API: paid once, heard without a seam."""

import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from replicate_server import FaultKind, ReplicateEmulator
from shared.media.decode import decode
from tests.support.pipeline_fixture import BASE, OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.replicate_provider import a_fake, account_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCENES = [
    {"description": f"a {mood} moment", "duration_s": seconds}
    for mood, seconds in zip(
        ["calm", "elegant", "dramatic", "professional"] * 3,
        [1.7, 2.3, 1.25, 3.0, 2.6, 1.1, 2.2, 1.9, 2.75, 1.4, 2.05, 1.6],
        strict=True,
    )
]


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """A fake that works for a fifth of a second."""
    async with a_fake(0.2) as started:
        yield started


@pytest.fixture
async def pipeline(
    open_pipeline: OpenPipeline, replicate: ReplicateEmulator
) -> AsyncIterator[Pipeline]:
    """Four services, the generator with the account of the fake."""
    async with open_pipeline(
        **account_of(replicate),
    ) as running:
        yield running


def heard(told: dict[str, Any]) -> str:
    """What was measured at the seams of a track, in a line."""
    seams = told["track"]["seams"]
    samples = f"{len(seams)} seams, {told['track']['samples']} samples"
    if not seams:
        return samples
    return (
        f"{samples}, click at most {max(seam['click'] for seam in seams)}, level within"
        f" {max(abs(seam['level_step_db']) for seam in seams)} dB, windows found with a correlation"
        f" of {min(seam['correlation'] for seam in seams)} and more"
    )


@pytest.mark.parametrize(
    ("shape", "seams"), [("window", 11), ("no_delay_header", 11), ("cumulative", 0)]
)
async def test_twelve_scenes_are_charged_once_each_and_join_without_a_seam(
    pipeline: Pipeline, replicate: ReplicateEmulator, tmp_path: Path, shape: str, seams: int
) -> None:
    """Window found, level within 1 dB, no click, length exact; the request is the contract's."""
    replicate.fault(FaultKind.CLIP_SHAPE, times=len(SCENES), value=shape)
    await pipeline.generate(job_id="twelve", scenes=SCENES)

    told = await pipeline.ended("twelve", within_s=180)

    assert told["audio_status"]["status"] == "completed", told
    assert len(replicate.ledger.charged) == len(SCENES)
    sys.stdout.write(f"{shape}: {heard(told)}\n")
    origins = [scene["origin"] for scene in told["progress"]["scenes"]]
    assert origins == ["fresh"] + ["continued"] * 11
    assert len(told["track"]["seams"]) == seams
    assert abs(sum(seam["lag_samples"] for seam in told["track"]["seams"])) <= 6  # a half each
    for seam in told["track"]["seams"]:  # no drums: a stroke on the joint reads as a click
        assert seam["kind"] == "splice"
        assert abs(seam["level_step_db"]) <= 1
        assert seam["click"] <= 10
        assert seam["correlation"] >= 0.9
    track = await pipeline.save(f"{BASE}/twelve/download", tmp_path / "track.mp3")
    total = round(sum(float(str(scene["duration_s"])) for scene in SCENES) * 48_000)
    assert decode(track.read_bytes()).shape[1] == total
    windows = [entry.input_from for entry in replicate.ledger.entries]
    assert windows == [None] + ["output"] * 11


async def test_killed_at_random_nothing_is_paid_for_twice(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """`kill -9` of the generator, five times: as many charges as scenes."""
    chance = random.Random(7)
    await pipeline.generate(job_id="killed", scenes=SCENES)
    for said in sorted(chance.sample(range(1, 10), 5)):

        async def some(said: int = said) -> bool | None:
            found = await records_of(
                pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
            )
            return len(found) >= said or None

        await eventually(some, within_s=90, what=f"{said} segments")
        await pipeline.services["generator"].kill()
        await pipeline.services["generator"].start()

    told = await pipeline.ended("killed", within_s=180)

    assert told["audio_status"]["status"] == "completed", told
    assert len(replicate.ledger.charged) == len(SCENES)


async def test_a_key_that_is_revoked_holds_the_job_up_until_it_works_again(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """No silence, no failure, no charge twice: it goes on by itself."""
    replicate.revoke()
    await pipeline.generate(job_id="revoked", scenes=SCENES[:2])

    async def refused() -> bool | None:
        return bool(pipeline.services["generator"].count_logged("provider.paused")) or None

    await eventually(refused, within_s=60, what="the pause")
    replicate.restore()
    told = await pipeline.ended("revoked", within_s=120)

    assert told["audio_status"]["status"] == "completed", told
    assert [scene["origin"] for scene in told["progress"]["scenes"]] == ["fresh", "continued"]
    assert len(replicate.ledger.charged) == 2


async def test_a_failed_prediction_is_tried_again_with_a_new_seed(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """The segment says so in the provider's words."""
    replicate.fault(FaultKind.FAIL_WITH, times=1, value="Prediction interrupted; please retry")
    await pipeline.generate(job_id="faulty", scenes=SCENES[:3])

    told = await pipeline.ended("faulty", within_s=120)

    assert told["audio_status"]["status"] == "completed", told
    segments = await records_of(
        pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
    )
    first = value_of(segments[0])
    assert first["attempts"] == 2
    assert "interrupted" in first["warnings"][0]
