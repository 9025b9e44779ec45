"""Example events for the documents: one job from its first event to its last.

A wedding film of two scenes, the second continuing the first; a job that fails; and a job that
is cancelled.
"""

from shared.contract.events import (
    AudioMerged,
    Event,
    JobCancelled,
    JobFailed,
    Origin,
    PredictionEnded,
    SceneDelayed,
    SceneRequested,
    Seam,
    SegmentGenerated,
    Stage,
    VideoMuxed,
    VideoStitched,
    WaitCode,
)
from shared.contract.params import AudioParams, Scene, SyncMode, VideoRef
from shared.storage.keys import clip_key, track_key, video_key

_JOB = "wedding-42"
_VIDEO = VideoRef(url="https://videos.example/wedding-42.mp4")
_PARAMS = AudioParams(merge_with_video=True)
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SECOND_SCENE = {
    "job_id": _JOB,
    "scene_index": 1,
    "scene_count": 2,
    "duration_s": 2.3,
    "params": _PARAMS,
    "video": _VIDEO,
}

EXAMPLES: tuple[Event, ...] = (
    VideoStitched(
        job_id=_JOB,
        video=_VIDEO,
        scenes=(
            Scene(description="Guests arrive by the lake, peaceful morning light", duration_s=1.7),
            Scene(description="The couple dances, exciting and joyful", duration_s=2.3),
        ),
        audio_params={"merge_with_video": True},
    ),
    SceneRequested(**_SECOND_SCENE, description="The couple dances, exciting and joyful"),
    SegmentGenerated(
        **_SECOND_SCENE,
        run=1,
        origin=Origin.CONTINUED,
        object_key=clip_key(_JOB, 1, 1, 1),
        content_type="audio/mpeg",
        sha256=_SHA256,
        size_bytes=96_480,
        start_samples=81_600,
        samples=110_400,
        clip_samples=192_000,
        window_samples=48_000,
        join_samples=96_000,
        prompt="Cinematic background music, upbeat and energetic, instrumental, seamless loop",
        seed=2_915_003_311,
        provider="synth",
        model="synth-1",
        prediction_id="synth-2915003311",
        generation_s=0.4,
        cost_usd=0.0,
    ),
    SceneDelayed(
        job_id=_JOB,
        run=1,
        scene_index=1,
        code=WaitCode.PROVIDER_PAUSED,
        reason="Replicate wants credit: 402 Insufficient credit",
    ),
    PredictionEnded(job_id=_JOB, prediction_id="gm3qorzdhgbfurvjtvhg6dckhu"),
    AudioMerged(
        job_id=_JOB,
        run=1,
        scene_count=2,
        object_key=track_key(_JOB, 1),
        sha256=_SHA256,
        size_bytes=97_244,
        samples=192_000,
        duration_s=4.0,
        loudness_lufs=-14.0,
        true_peak_dbtp=-1.6,
        gain_db=1.9,
        seams=(
            Seam(
                scene_index=1,
                at_samples=96_000,
                kind="splice",
                gain_db=-0.4,
                level_step_db=0.1,
                correlation=0.98,
                click=3.4,
            ),
        ),
        params=_PARAMS,
        video=_VIDEO,
    ),
    VideoMuxed(
        job_id=_JOB,
        run=1,
        object_key=video_key(_JOB, 1),
        sha256=_SHA256,
        size_bytes=5_242_880,
        duration_s=4.0,
        sync_mode=SyncMode.TRIM,
    ),
    JobFailed(
        job_id="podcast-7",
        run=1,
        stage=Stage.MUX,
        code="invalid_media",
        message="the file has no video stream",
    ),
    JobCancelled(job_id="holiday-3", run=2, reason="requested by the client"),
)
