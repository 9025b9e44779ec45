"""Builders of what a run of job "job-1" says after its segments, and of a whole good run."""

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
    """The track of two scenes."""
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
    """The video of a run."""
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
    """A stage that says why."""
    return JobFailed(job_id="job-1", run=run, stage=stage, code="c", message="m", scene_index=scene)


def a_delay(scene: int = 0, run: int = 1, **fields: Any) -> SceneDelayed:
    """A scene waits because its provider refuses everyone."""
    given = {"code": WaitCode.PROVIDER_PAUSED, "reason": "Replicate wants credit", **fields}
    return SceneDelayed(job_id="job-1", run=run, scene_index=scene, **given)


def a_cancel(run: int = 1) -> JobCancelled:
    """Somebody said stop."""
    return JobCancelled(job_id="job-1", run=run, reason="enough")


def a_complete_run(run: int = 1) -> list[AnyRunEvent]:
    """Everything that a good run with a video says, in the order of the line."""
    scenes = [a_scene(i, count=2, run=run, params=WITH_VIDEO) for i in range(2)]
    segments = [a_segment(i, count=2, run=run, params=WITH_VIDEO) for i in range(2)]
    return [*scenes, *segments, a_track(run), a_video(run)]
