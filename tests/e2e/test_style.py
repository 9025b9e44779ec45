"""A user's own music through four processes: handed in, continued, never heard."""

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
    """Four services and a client."""
    async with open_pipeline() as running:
        yield running


async def test_a_song_that_is_handed_in_opens_the_music_and_a_bad_one_is_told(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Origin and reason in the status, the length to the sample, nothing of the song."""
    song = a_song(6.3)
    handed_in = await pipeline.client.post(f"{BASE}/styles", content=audio_file(song))
    assert handed_in.status_code == 201, handed_in.text
    style = handed_in.json()["style_audio"]
    begun = await pipeline.generate(job_id="s", scenes=SCENES, audio_params={"style_audio": style})
    inside = "http://169.254.169.254/song.mp3"
    await pipeline.generate(job_id="bad", scenes=SCENES, audio_params={"style_audio": inside})
    strict = {"style_audio": inside, "error_strategy": "halt"}
    await pipeline.generate(job_id="strict", scenes=SCENES, audio_params=strict)

    told, bad, halted = [await pipeline.ended(job_id) for job_id in ("s", "bad", "strict")]

    assert begun.json()["estimate"]["music_s"] == 5 + 3 + 1 + 3
    assert told["audio_status"]["status"] == "completed", told
    first, second = told["progress"]["scenes"]
    assert (first["origin"], first["reason"]) == ("continued", "continues the style sample")
    assert (second["origin"], second["reason"]) == ("continued", None)
    track = decode((await pipeline.save(f"{BASE}/s/download", tmp_path / "track.mp3")).read_bytes())
    assert track.shape[1] == told["track"]["samples"] == round(4.7 * SAMPLE_RATE_HZ)
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
