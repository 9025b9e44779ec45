"""Whole jobs with the Replicate provider: each scene is charged once, and seams are inaudible."""

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
    """Yield an emulator that works 0.2 s on each prediction."""
    async with a_fake(0.2) as started:
        yield started


@pytest.fixture
async def pipeline(
    open_pipeline: OpenPipeline, replicate: ReplicateEmulator
) -> AsyncIterator[Pipeline]:
    """Yield the four running services, with an account of the emulator."""
    async with open_pipeline(**account_of(replicate)) as running:
        yield running


def seam_summary(track: dict[str, Any]) -> str:
    """Return the measurements at the seams of a track as a sentence."""
    seams = track["seams"]
    samples = f"{len(seams)} seams, {track['samples']} samples"
    if not seams:
        return samples
    return (
        f"{samples}, click at most {max(seam['click'] for seam in seams)}, level within"
        f" {max(abs(seam['level_step_db']) for seam in seams)} dB, window correlation at least"
        f" {min(seam['correlation'] for seam in seams)}"
    )


@pytest.mark.parametrize(
    ("shape", "seams"), [("window", 11), ("no_delay_header", 11), ("cumulative", 0)]
)
async def test_twelve_scenes_are_charged_once_each_and_join_without_clicks(
    pipeline: Pipeline, replicate: ReplicateEmulator, tmp_path: Path, shape: str, seams: int
) -> None:
    """Windows are found, levels are within 1 dB, and the track has its exact length."""
    replicate.fault(FaultKind.CLIP_SHAPE, times=len(SCENES), value=shape)
    await pipeline.generate(job_id="twelve", scenes=SCENES)

    status = await pipeline.ended("twelve", within_s=180)

    assert status["audio_status"]["status"] == "completed", status
    assert len(replicate.ledger.charged) == len(SCENES)
    sys.stdout.write(f"{shape}: {seam_summary(status['track'])}\n")
    origins = [scene["origin"] for scene in status["progress"]["scenes"]]
    assert origins == ["fresh"] + ["continued"] * 11
    assert len(status["track"]["seams"]) == seams
    assert (
        abs(sum(seam["lag_samples"] for seam in status["track"]["seams"])) <= 6
    )  # half a sample per seam
    for seam in status["track"][
        "seams"
    ]:  # the music has no drums: a hit at the seam measures as a click
        assert seam["kind"] == "splice"
        assert abs(seam["level_step_db"]) <= 1
        assert seam["click"] <= 10
        assert seam["correlation"] >= 0.9
    track = await pipeline.save(f"{BASE}/twelve/download", tmp_path / "track.mp3")
    total = round(sum(float(str(scene["duration_s"])) for scene in SCENES) * 48_000)
    assert decode(track.read_bytes()).shape[1] == total
    windows = [entry.input_from for entry in replicate.ledger.entries]
    assert windows == [None] + ["output"] * 11


async def test_a_generator_killed_at_random_charges_no_scene_twice(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """After five `kill -9` there are as many charges as scenes."""
    chance = random.Random(7)
    await pipeline.generate(job_id="killed", scenes=SCENES)
    for count in sorted(chance.sample(range(1, 10), 5)):

        async def segments_generated(count: int = count) -> bool | None:
            segments = await records_of(
                pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
            )
            return len(segments) >= count or None

        await eventually(segments_generated, within_s=90, what=f"{count} segments")
        await pipeline.services["generator"].kill()
        await pipeline.services["generator"].start()

    status = await pipeline.ended("killed", within_s=180)

    assert status["audio_status"]["status"] == "completed", status
    assert len(replicate.ledger.charged) == len(SCENES)


async def test_a_job_waits_while_the_key_is_revoked_and_resumes_afterwards(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """No scene is silent, fails, or is charged twice."""
    replicate.revoke()
    await pipeline.generate(job_id="revoked", scenes=SCENES[:2])

    async def provider_paused() -> bool | None:
        return bool(pipeline.services["generator"].count_logged("provider.paused")) or None

    await eventually(provider_paused, within_s=60, what="the pause")
    replicate.restore()
    status = await pipeline.ended("revoked", within_s=120)

    assert status["audio_status"]["status"] == "completed", status
    assert [scene["origin"] for scene in status["progress"]["scenes"]] == ["fresh", "continued"]
    assert len(replicate.ledger.charged) == 2


async def test_a_failed_prediction_is_retried(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """The segment has two attempts and the provider's error as a warning."""
    replicate.fault(FaultKind.FAIL_WITH, times=1, value="Prediction interrupted; please retry")
    await pipeline.generate(job_id="faulty", scenes=SCENES[:3])

    status = await pipeline.ended("faulty", within_s=120)

    assert status["audio_status"]["status"] == "completed", status
    segments = await records_of(
        pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
    )
    first = value_of(segments[0])
    assert first["attempts"] == 2
    assert "interrupted" in first["warnings"][0]
