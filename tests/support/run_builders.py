"""Build the events of a run of job "job-1" after its segments, and of a whole run."""

from typing import Any

from services.api.domain.run_view import AnyRunEvent
from shared.contract.events import (
    AudioMerged,
    JobCancelled,
    JobFailed,
    SceneDelayed,
    Stage,
    VideoMuxed,
    WaitCode,
)
from shared.contract.params import AudioParams, SyncMode
from tests.support.event_builders import a_scene, a_segment

WITH_VIDEO = AudioParams(merge_with_video=True)


def a_track(run: int = 1, *, params: AudioParams = WITH_VIDEO, size: int = 1000) -> AudioMerged:
    """Return an `audio.merged` event of two scenes."""
    return AudioMerged(
        job_id="job-1",
        run=run,
        scene_count=2,
        object_key="jobs/x/runs/1/track.mp3",
        sha256="0" * 64,
        size_bytes=size,
        samples=240_000,
        duration_s=5.0,
        loudness_lufs=-14.0,
        params=params,
    )


def a_video(run: int = 1) -> VideoMuxed:
    """Return a `video.muxed` event."""
    return VideoMuxed(
        job_id="job-1",
        run=run,
        object_key="jobs/x/runs/1/video.mp4",
        sha256="0" * 64,
        size_bytes=5000,
        duration_s=5.0,
        sync_mode=SyncMode.TRIM,
    )


def a_failure(run: int = 1, stage: Stage = Stage.MUX, scene: int | None = None) -> JobFailed:
    """Return a `job.failed` event."""
    return JobFailed(job_id="job-1", run=run, stage=stage, code="c", message="m", scene_index=scene)


def a_delay(scene: int = 0, run: int = 1, **fields: Any) -> SceneDelayed:
    """Return a `scene.delayed` event: the provider is paused."""
    values = {"code": WaitCode.PROVIDER_PAUSED, "reason": "Replicate wants credit", **fields}
    return SceneDelayed(job_id="job-1", run=run, scene_index=scene, **values)


def a_cancel(run: int = 1) -> JobCancelled:
    """Return a `job.cancelled` event."""
    return JobCancelled(job_id="job-1", run=run, reason="enough")


def a_complete_run(run: int = 1) -> list[AnyRunEvent]:
    """Return every event of a completed run with a video, in order."""
    scenes = [a_scene(i, count=2, run=run, params=WITH_VIDEO) for i in range(2)]
    segments = [a_segment(i, count=2, run=run, params=WITH_VIDEO) for i in range(2)]
    return [*scenes, *segments, a_track(run), a_video(run)]
