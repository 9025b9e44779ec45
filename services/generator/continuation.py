"""Continuation: what a job remembers between its scenes, and what may come next.

Scenes follow each other on the track without gaps; a scene's music continues the last *real*
music before it, never silence. Providers know whole seconds only, so the window ends on the
first whole second of the earlier clip at or after the cut: up to there the earlier clip plays
on, and from there the new music begins (never as much as a second after the cut, however many
scenes follow). See ADR-0005.

Units: samples at 48 kHz, places on the track; whole seconds where the provider is asked.
Pure.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from pydantic import BaseModel, ConfigDict

from services.generator.providers import ContinuationWindow
from shared.errors import JobError
from shared.events import JobFailed, Origin, SceneRequested, SegmentGenerated
from shared.media import SAMPLE_RATE_HZ, exact_seconds, samples_at


class LastClip(BaseModel):
    """The last real music: where its clip lies, and where it lies on the track."""

    model_config = ConfigDict(frozen=True)

    clip_key: str
    clip_url: str | None
    clip_url_born_at: float | None = None
    clip_samples: int
    window_samples: int
    join_samples: int

    @classmethod
    def of(cls, segment: SegmentGenerated) -> Self | None:
        """The clip of `segment`; None of silence."""
        if segment.origin is Origin.SILENCE or segment.object_key is None:
            return None
        return cls(
            clip_key=segment.object_key,
            clip_url=segment.output_url,
            clip_url_born_at=segment.output_url_born_at,
            clip_samples=segment.clip_samples,
            window_samples=segment.window_samples,
            join_samples=segment.join_samples,
        )

    @property
    def origin_samples(self) -> int:
        """Where on the track the clip's first sample lies; may be before its start."""
        return self.join_samples - self.window_samples


class Continuation(BaseModel):
    """The state of one job's newest run, as it stands in the table."""

    model_config = ConfigDict(frozen=True)

    run: int
    scene_done: int = -1  #: the last finished scene; -1: none yet
    elapsed_s: str = "0"  #: exact sum of the finished scenes' lengths, as a fraction
    last_clip: LastClip | None = None
    failure: JobFailed | None = None  #: the run ended here; later scenes are not made

    @property
    def elapsed(self) -> Fraction:
        """Seconds of track that are finished."""
        return Fraction(self.elapsed_s)

    def after(self, segment: SegmentGenerated) -> Self:
        """The state once `segment` is finished."""
        elapsed = self.elapsed + exact_seconds(segment.duration_s)
        return self.model_copy(
            update={
                "scene_done": segment.scene_index,
                "elapsed_s": str(elapsed),
                "last_clip": LastClip.of(segment) or self.last_clip,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """Where a scene's music belongs, and what the provider is asked for."""

    start_samples: int
    samples: int
    join_samples: int  #: where on the track the first sample after the window belongs
    window: ContinuationWindow | None
    duration_s: int  #: what the provider is asked for, window included

    @property
    def window_samples(self) -> int:
        """Samples of old music at the head of the clip to come."""
        return self.window.length_s * SAMPLE_RATE_HZ if self.window else 0


def plan_scene(state: Continuation, scene: SceneRequested, *, window_s: int) -> ScenePlan:
    """Where the next scene lies and how it continues, with a window of `window_s` if possible.

    Raises:
        JobError: the scene is shorter than a sample.
    """
    length = exact_seconds(scene.duration_s)
    start = samples_at(state.elapsed)
    samples = samples_at(state.elapsed + length) - start
    if samples < 1:
        raise JobError(
            f"scene {scene.scene_index} lasts {scene.duration_s} s, less than one sample",
            code="scene_too_short",
        )
    window, join = _window(state.last_clip, start, window_s)
    return ScenePlan(
        start_samples=start,
        samples=samples,
        join_samples=join,
        window=window,
        duration_s=math.ceil(length) + (window.length_s if window else 0),
    )


def _window(
    last: LastClip | None, start_samples: int, window_s: int
) -> tuple[ContinuationWindow | None, int]:
    """The window on the last clip, and where the music after it belongs."""
    if last is None:
        return None, start_samples
    whole_s = last.clip_samples // SAMPLE_RATE_HZ  # never a window past the clip's end
    cut_samples = start_samples - last.origin_samples  # the cut, in the clip's own time
    end_s = min(whole_s, -(-cut_samples // SAMPLE_RATE_HZ))
    if end_s < 1:
        return None, start_samples
    window = ContinuationWindow(
        clip_key=last.clip_key,
        clip_url=last.clip_url,
        clip_url_born_at=last.clip_url_born_at,
        start_s=max(0, end_s - window_s),
        end_s=end_s,
    )
    # After silence the clip ended before the cut: the new music begins at the cut.
    join = max(start_samples, last.origin_samples + end_s * SAMPLE_RATE_HZ)
    return window, join
