"""Whole jobs through four processes, real film clips, and what a person then hears and sees."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from shared.contract.params import SyncMode
from shared.media.decode import decode
from shared.media.ffmpeg import Ffmpeg
from shared.media.video import probe_video
from shared.settings import FfmpegSettings, StoreSettings
from tests.support.film_clips import film_clips
from tests.support.films import picture_packets, presented_sound
from tests.support.pipeline_fixture import BASE, OpenPipeline, Pipeline, running_pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCENES = [
    {"description": "a calm lake at dawn", "duration_s": 1.7},
    {"description": "an exciting chase through the woods", "duration_s": 2.35},
    {"description": "an elegant ball", "duration_s": 1.2},
]
SCENES_S = 5.25
RATE = 48_000


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """Four services and a client."""
    async with open_pipeline() as running:
        yield running


async def _levels(track: Path) -> tuple[float, float]:
    """Integrated loudness and true peak, as FFmpeg measures them."""
    ffmpeg = Ffmpeg(FfmpegSettings())
    result = await ffmpeg.run(["-i", track, "-af", "ebur128=peak=true", "-f", "null", "-"])
    summary = result.stderr[result.stderr.rindex("Summary:") :]
    values = dict(
        line.split(":", 1)
        for line in summary.splitlines()
        if line.strip().startswith(("I:", "Peak:"))
    )
    told = {name.strip(): float(value.split()[0]) for name, value in values.items()}
    return told["I"], told["Peak"]


async def test_a_film_gets_its_music(pipeline: Pipeline, tmp_path: Path) -> None:
    """Picture to the bit, track to the sample, levels as promised, every scene continued."""
    film = film_clips().bigbuckbunny
    video = await pipeline.upload(film)
    answer = await pipeline.generate(
        job_id=7, scenes=SCENES, video=video, audio_params={"merge_with_video": True}
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "processing"

    told = await pipeline.ended("7")

    assert told["audio_status"]["status"] == "completed", told
    assert told["audio_status"]["merged_with_video"] is True
    assert told["progress"]["stage"] == "audio_completed"
    origins = [scene["origin"] for scene in told["progress"]["scenes"]]
    assert origins == ["fresh", "continued", "continued"]
    track = await pipeline.save(f"{BASE}/7/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(SCENES_S * RATE)
    loudness, peak = await _levels(track)
    assert loudness == pytest.approx(-14, abs=0.5)
    assert peak <= -1
    scored = await pipeline.save(f"{BASE}/7/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)
    heard, _ = presented_sound(scored)
    assert heard == probe_video(film).samples


@pytest.mark.parametrize("mode", list(SyncMode))
async def test_every_sync_mode_fits_the_music_to_a_silent_film(
    pipeline: Pipeline, tmp_path: Path, mode: SyncMode
) -> None:
    """Ten seconds of picture, 5.25 s of scenes: the picture is never cut, nor re-encoded."""
    film = film_clips().bikes
    video = await pipeline.upload(film)
    await pipeline.generate(
        job_id=f"bikes-{mode}",
        scenes=SCENES,
        video=video,
        audio_params={"merge_with_video": True, "sync_mode": mode},
    )

    told = await pipeline.ended(f"bikes-{mode}")

    assert told["audio_status"]["status"] == "completed", told
    scored = await pipeline.save(f"{BASE}/bikes-{mode}/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)
    heard, _ = presented_sound(scored)
    assert heard == probe_video(film).samples


async def test_without_a_video_the_track_alone_is_the_result(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """`merge_with_video` is off by default; the video stays a clear 404."""
    await pipeline.generate(job_id="track only", scenes=SCENES)

    told = await pipeline.ended("track only")

    assert told["audio_status"]["status"] == "completed"
    assert told["audio_status"]["merged_with_video"] is False
    track = await pipeline.save(f"{BASE}/track%20only/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(SCENES_S * RATE)
    assert (await pipeline.client.get(f"{BASE}/track%20only/video")).status_code == 404


async def test_a_failed_mux_leaves_the_track_and_says_why(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Compressing 5.25 s into 4 s of picture works; into a tempo outside 0.5 to 2.0 it does not."""
    video = await pipeline.upload(film_clips().carphone)
    long_scene = [{"description": "a calm lake", "duration_s": 9.3}]
    await pipeline.generate(
        job_id="too-long",
        scenes=long_scene,
        video=video,
        audio_params={"merge_with_video": True, "sync_mode": "compress"},
    )

    told = await pipeline.ended("too-long")

    assert told["audio_status"]["status"] == "failed"
    assert "2.32" in told["audio_status"]["error"]
    track = await pipeline.save(f"{BASE}/too-long/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(9.3 * RATE)


async def test_an_upstream_that_only_publishes_gets_track_video_and_status(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Bare JSON records of `scene.requested`, integer job id, no headers, the api never called."""
    film = film_clips().carphone
    video = await pipeline.upload(film)
    producer = AIOKafkaProducer(bootstrap_servers=pipeline.kafka.bootstrap)
    await producer.start()
    for index, scene in enumerate(SCENES):
        value = {
            "job_id": 4711,
            "scene_index": index,
            "scene_count": len(SCENES),
            "video": video,
            "params": {"merge_with_video": True},
            **scene,
        }
        await producer.send_and_wait(f"{pipeline.prefix}scene.requested", _json(value), key=b"4711")
    await producer.stop()

    told = await pipeline.ended("4711")

    assert told["audio_status"]["status"] == "completed", told
    scored = await pipeline.save(f"{BASE}/4711/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)


async def test_every_service_restarted_in_the_middle_the_job_finishes(pipeline: Pipeline) -> None:
    """`kill -9`, one after the other, while scenes are made: each is made once all the same."""
    scenes = [{"description": f"scene {number}", "duration_s": 1.7} for number in range(12)]
    await pipeline.generate(job_id="restarted", scenes=scenes)
    for number, service in enumerate(pipeline.services.values()):

        async def some(number: int = number) -> bool | None:
            said = await records_of(
                pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
            )
            return len(said) > number or None

        await eventually(some, within_s=60, what=f"segment {number}")
        await service.kill()
        await service.start()

    await eventually(lambda: _answering(pipeline), within_s=60, what="the api")
    told = await pipeline.ended("restarted")

    assert told["audio_status"]["status"] == "completed", told
    claims = list((pipeline.folder / "store").rglob("claim-*"))
    assert len(claims) == len(scenes)


async def test_the_same_line_works_on_a_real_object_store(
    kafka: KafkaServer,
    postgres: Database,
    minio: StoreSettings,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    """Claims, clips, track and video in a bucket instead of a folder."""
    film = film_clips().carphone
    store: dict[str, Any] = {
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": minio.endpoint,
        "MINIO_ACCESS_KEY": minio.access_key.get_secret_value(),
        "MINIO_SECRET_KEY": minio.secret_key.get_secret_value(),
        "MINIO_BUCKET": minio.bucket,
    }
    async with running_pipeline(kafka, postgres, topic_prefix, tmp_path, **store) as pipeline:
        video = await pipeline.upload(film)
        await pipeline.generate(
            job_id="bucket", scenes=SCENES, video=video, audio_params={"merge_with_video": True}
        )

        told = await pipeline.ended("bucket")

        assert told["audio_status"]["status"] == "completed", told
        scored = await pipeline.save(f"{BASE}/bucket/video", tmp_path / "scored.mp4")
        assert picture_packets(scored) == picture_packets(film)


async def test_the_same_request_twice_is_one_run_and_another_supersedes_it(
    pipeline: Pipeline,
) -> None:
    """Nothing is made twice; a different request while one runs begins the next run."""
    body: dict[str, Any] = {"job_id": "again", "scenes": SCENES}
    first = await pipeline.generate(**body)
    second = await pipeline.generate(**body)
    assert (first.json()["run"], second.json()["run"]) == (1, 1)
    other = await pipeline.generate(**body, audio_params={"prompt": "Epic orchestral music"})
    assert other.json()["run"] == 2

    told = await pipeline.ended("again", run=2)

    assert told["run"] == 2
    assert told["audio_status"]["status"] == "completed"
    merged = await records_of(pipeline.kafka.bootstrap, "audio.merged", prefix=pipeline.prefix)
    assert [value_of(record)["run"] for record in merged].count(2) == 1


async def test_a_stitched_video_starts_by_itself_when_told_to(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """`AUTO_GENERATE_AUDIO`; and a record that lacks a field is a dead letter with the reason."""
    async with running_pipeline(
        kafka, postgres, topic_prefix, tmp_path, AUTO_GENERATE_AUDIO="true"
    ) as pipeline:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
        await producer.start()
        topic = f"{topic_prefix}video.stitched"
        await producer.send_and_wait(topic, _json({"job_id": "broken"}), key=b"broken")
        await producer.send_and_wait(
            topic, _json({"job_id": "stitched", "scenes": SCENES}), key=b"stitched"
        )
        await producer.stop()

        told = await pipeline.ended("stitched")

        assert told["audio_status"]["status"] == "completed"

        async def dead() -> list[str] | None:
            found = await records_of(kafka.bootstrap, "video.stitched.dlq", prefix=topic_prefix)
            return [str(record.header("dlq-reason")) for record in found] or None

        (reason,) = await eventually(dead, within_s=30, what="the dead letter")
        assert "scenes" in reason


async def _answering(pipeline: Pipeline) -> bool | None:
    """True once the api answers."""
    try:
        return (await pipeline.client.get("/livez")).status_code == 200 or None
    except httpx.TransportError:
        return None


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
