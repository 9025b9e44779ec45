"""A style sample through the four services: uploaded, continued, absent from the track."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from services.generator.clip.quality import best_match
from shared.media.decode import decode
from shared.media.samples import SAMPLE_RATE_HZ
from tests.support.pipeline_fixture import BASE, OpenPipeline, Pipeline
from tests.support.style_audio import a_song, audio_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
SCENES = [{"description": f"a {mood} moment", "duration_s": 2.35} for mood in ("calm", "elegant")]


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """Yield the four running services and a client."""
    async with open_pipeline() as running:
        yield running


async def test_the_first_scene_continues_the_style_sample(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The track has its exact length and nothing of the song; an unusable sample is reported."""
    song = a_song(6.3)
    uploaded = await pipeline.client.post(f"{BASE}/styles", content=audio_file(song))
    assert uploaded.status_code == 201, uploaded.text
    style = uploaded.json()["style_audio"]
    accepted = await pipeline.generate(
        job_id="s", scenes=SCENES, audio_params={"style_audio": style}
    )
    private_url = "http://169.254.169.254/song.mp3"
    await pipeline.generate(job_id="bad", scenes=SCENES, audio_params={"style_audio": private_url})
    halting = {"style_audio": private_url, "error_strategy": "halt"}
    await pipeline.generate(job_id="halting", scenes=SCENES, audio_params=halting)

    status, bad, halted = [await pipeline.ended(job_id) for job_id in ("s", "bad", "halting")]

    assert accepted.json()["estimate"]["music_s"] == 5 + 3 + 1 + 3
    assert status["audio_status"]["status"] == "completed", status
    first, second = status["progress"]["scenes"]
    assert (first["origin"], first["reason"]) == ("continued", "continues the style sample")
    assert (second["origin"], second["reason"]) == ("continued", None)
    track = decode((await pipeline.save(f"{BASE}/s/download", tmp_path / "track.mp3")).read_bytes())
    assert track.shape[1] == status["track"]["samples"] == round(4.7 * SAMPLE_RATE_HZ)
    last_s = decode(audio_file(song))[:, -SAMPLE_RATE_HZ:]
    assert best_match(last_s, track, early=0, late=track.shape[1] - SAMPLE_RATE_HZ)[0] < 0.5
    assert np.abs(track[:, :24_000]).max() > 0.01

    assert bad["audio_status"]["status"] == "completed", bad
    scene = bad["progress"]["scenes"][0]
    assert scene["origin"] == "fresh"
    assert "resolves to a private address" in scene["reason"]
    assert scene["warnings"] == [scene["reason"]]
    assert pipeline.services["generator"].count_logged("style.rejected")

    assert halted["audio_status"]["status"] == "failed"
    assert halted["failure"]["code"] == "style_unusable"
