"""Whole jobs through the four service processes, with real film clips."""

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
    """Yield the four running services and a client."""
    async with open_pipeline() as running:
        yield running


async def _levels(track: Path) -> tuple[float, float]:
    """Return the integrated loudness and the true peak, as FFmpeg measures them."""
    ffmpeg = Ffmpeg(FfmpegSettings())
    result = await ffmpeg.run(["-i", track, "-af", "ebur128=peak=true", "-f", "null", "-"])
    summary = result.stderr[result.stderr.rindex("Summary:") :]
    values = dict(
        line.split(":", 1)
        for line in summary.splitlines()
        if line.strip().startswith(("I:", "Peak:"))
    )
    levels = {name.strip(): float(value.split()[0]) for name, value in values.items()}
    return levels["I"], levels["Peak"]


async def test_a_video_gets_its_track(pipeline: Pipeline, tmp_path: Path) -> None:
    """The picture is bit-identical, the track sample-exact, at -14 LUFS and at most -1 dBTP."""
    film = film_clips().bigbuckbunny
    video = await pipeline.upload(film)
    response = await pipeline.generate(
        job_id=7, scenes=SCENES, video=video, audio_params={"merge_with_video": True}
    )
    assert response.status_code == 202, response.text
    assert response.json()["status"] == "processing"

    status = await pipeline.ended("7")

    assert status["audio_status"]["status"] == "completed", status
    assert status["audio_status"]["merged_with_video"] is True
    assert status["progress"]["stage"] == "audio_completed"
    origins = [scene["origin"] for scene in status["progress"]["scenes"]]
    assert origins == ["fresh", "continued", "continued"]
    track = await pipeline.save(f"{BASE}/7/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(SCENES_S * RATE)
    loudness, peak = await _levels(track)
    assert loudness == pytest.approx(-14, abs=0.5)
    assert peak <= -1
    scored = await pipeline.save(f"{BASE}/7/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)
    samples, _ = presented_sound(scored)
    assert samples == probe_video(film).samples


@pytest.mark.parametrize("mode", list(SyncMode))
async def test_every_sync_mode_fits_the_track_to_a_silent_video(
    pipeline: Pipeline, tmp_path: Path, mode: SyncMode
) -> None:
    """The video has 10 s, the scenes 5.25 s: the picture is neither cut nor re-encoded."""
    film = film_clips().bikes
    video = await pipeline.upload(film)
    await pipeline.generate(
        job_id=f"bikes-{mode}",
        scenes=SCENES,
        video=video,
        audio_params={"merge_with_video": True, "sync_mode": mode},
    )

    status = await pipeline.ended(f"bikes-{mode}")

    assert status["audio_status"]["status"] == "completed", status
    scored = await pipeline.save(f"{BASE}/bikes-{mode}/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)
    samples, _ = presented_sound(scored)
    assert samples == probe_video(film).samples


async def test_a_job_without_a_video_returns_only_the_track(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """`merge_with_video` is off by default; `/video` returns 404."""
    await pipeline.generate(job_id="track only", scenes=SCENES)

    status = await pipeline.ended("track only")

    assert status["audio_status"]["status"] == "completed"
    assert status["audio_status"]["merged_with_video"] is False
    track = await pipeline.save(f"{BASE}/track%20only/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(SCENES_S * RATE)
    assert (await pipeline.client.get(f"{BASE}/track%20only/video")).status_code == 404


async def test_a_failed_mux_keeps_the_track_and_reports_the_reason(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The tempo that 9.3 s of music would need, 2.32, is outside 0.5 to 2.0."""
    video = await pipeline.upload(film_clips().carphone)
    long_scene = [{"description": "a calm lake", "duration_s": 9.3}]
    await pipeline.generate(
        job_id="too-long",
        scenes=long_scene,
        video=video,
        audio_params={"merge_with_video": True, "sync_mode": "compress"},
    )

    status = await pipeline.ended("too-long")

    assert status["audio_status"]["status"] == "failed"
    assert "2.32" in status["audio_status"]["error"]
    track = await pipeline.save(f"{BASE}/too-long/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == round(9.3 * RATE)


async def test_bare_scene_requests_from_kafka_produce_track_video_and_status(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The records are plain JSON with an integer job id and no headers; no HTTP call is made."""
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

    status = await pipeline.ended("4711")

    assert status["audio_status"]["status"] == "completed", status
    scored = await pipeline.save(f"{BASE}/4711/video", tmp_path / "scored.mp4")
    assert picture_packets(scored) == picture_packets(film)


async def test_a_job_completes_although_every_service_is_killed(pipeline: Pipeline) -> None:
    """`kill -9` of each service in turn during generation: every scene is claimed once."""
    scenes = [{"description": f"scene {number}", "duration_s": 1.7} for number in range(12)]
    await pipeline.generate(job_id="restarted", scenes=scenes)
    for number, service in enumerate(pipeline.services.values()):

        async def segment_generated(number: int = number) -> bool | None:
            segments = await records_of(
                pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
            )
            return len(segments) > number or None

        await eventually(segment_generated, within_s=60, what=f"segment {number}")
        await service.kill()
        await service.start()

    await eventually(lambda: _api_responds(pipeline), within_s=60, what="the api responds")
    status = await pipeline.ended("restarted")

    assert status["audio_status"]["status"] == "completed", status
    claims = list((pipeline.folder / "store").rglob("claim-*"))
    assert len(claims) == len(scenes)


async def test_a_job_completes_on_an_s3_store(
    kafka: KafkaServer,
    postgres: Database,
    each_s3: StoreSettings,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    """Claims, clips, track and video are stored in a bucket instead of a folder."""
    film = film_clips().carphone
    store: dict[str, Any] = {
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": each_s3.endpoint,
        "MINIO_ACCESS_KEY": each_s3.access_key.get_secret_value(),
        "MINIO_SECRET_KEY": each_s3.secret_key.get_secret_value(),
        "MINIO_BUCKET": each_s3.bucket,
    }
    async with running_pipeline(kafka, postgres, topic_prefix, tmp_path, **store) as pipeline:
        video = await pipeline.upload(film)
        await pipeline.generate(
            job_id="bucket", scenes=SCENES, video=video, audio_params={"merge_with_video": True}
        )

        status = await pipeline.ended("bucket")

        assert status["audio_status"]["status"] == "completed", status
        scored = await pipeline.save(f"{BASE}/bucket/video", tmp_path / "scored.mp4")
        assert picture_packets(scored) == picture_packets(film)


async def test_a_repeated_request_starts_no_run_and_a_different_one_supersedes_it(
    pipeline: Pipeline,
) -> None:
    """A different request for a running job starts the next run."""
    body: dict[str, Any] = {"job_id": "again", "scenes": SCENES}
    first = await pipeline.generate(**body)
    second = await pipeline.generate(**body)
    assert (first.json()["run"], second.json()["run"]) == (1, 1)
    other = await pipeline.generate(**body, audio_params={"prompt": "Epic orchestral music"})
    assert other.json()["run"] == 2

    status = await pipeline.ended("again", run=2)

    assert status["run"] == 2
    assert status["audio_status"]["status"] == "completed"
    merged = await records_of(pipeline.kafka.bootstrap, "audio.merged", prefix=pipeline.prefix)
    assert [value_of(record)["run"] for record in merged].count(2) == 1


async def test_a_stitched_video_starts_a_run_if_the_setting_is_on(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """The setting is `AUTO_GENERATE_AUDIO`; an incomplete record goes to the dead-letter topic."""
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

        status = await pipeline.ended("stitched")

        assert status["audio_status"]["status"] == "completed"

        async def reasons() -> list[str] | None:
            letters = await records_of(kafka.bootstrap, "video.stitched.dlq", prefix=topic_prefix)
            return [str(letter.header("dlq-reason")) for letter in letters] or None

        (reason,) = await eventually(reasons, within_s=30, what="the dead letter")
        assert "scenes" in reason


async def _api_responds(pipeline: Pipeline) -> bool | None:
    """Return True once the api responds."""
    try:
        return (await pipeline.client.get("/livez")).status_code == 200 or None
    except httpx.TransportError:
        return None


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
