"""Build valid events; a test names only the fields it is about."""

from typing import Any

from shared.contract.events import Origin, SceneRequested, SegmentGenerated
from shared.media.samples import SAMPLE_RATE_HZ


def a_scene(index: int = 0, *, count: int = 4, **fields: Any) -> SceneRequested:
    """Return a `scene.requested` event of job "job-1", run 1."""
    values = {"job_id": "job-1", "duration_s": 2.5, "description": "a calm lake", **fields}
    return SceneRequested(scene_index=index, scene_count=count, **values)


def a_segment(index: int = 0, *, count: int = 4, **fields: Any) -> SegmentGenerated:
    """Return a `segment.generated` event: fresh, a clip of 3 s for a scene of 2.5 s."""
    samples = int(2.5 * SAMPLE_RATE_HZ)
    values = {
        "job_id": "job-1",
        "run": 1,
        "origin": Origin.FRESH,
        "object_key": f"jobs/x/runs/1/scenes/{index:05d}/clip-1.mp3",
        "duration_s": 2.5,
        "start_samples": index * samples,
        "samples": samples,
        "clip_samples": 3 * SAMPLE_RATE_HZ,
        "join_samples": index * samples,
        "prompt": "p",
        "provider": "synth",
        **fields,
    }
    return SegmentGenerated(scene_index=index, scene_count=count, **values)
