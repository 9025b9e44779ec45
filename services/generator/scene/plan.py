"""Plans a scene from its job's state: position on the track, window and requested duration.

Scenes follow each other on the track without gaps; a scene's music continues the last music
before it, never silence. Providers accept whole seconds only, so the window ends on the first
whole second of the earlier clip at or after the cut: until then the earlier clip plays, and from
there the new music (less than a second after the cut, however many scenes follow). See ADR-0005.

Units: samples at 48 kHz on the track; whole seconds in requests to the provider.
Pure.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from pydantic import BaseModel, ConfigDict

from services.generator.providers import ContinuationWindow
from shared.contract.events import JobFailed, Origin, SceneRequested, SegmentGenerated
from shared.errors import JobError
from shared.media.samples import SAMPLE_RATE_HZ, exact_seconds, samples_at


class LastClip(BaseModel):
    """The last clip with music: its key, and its position on the track."""

    model_config = ConfigDict(frozen=True)

    clip_key: str
    clip_url: str | None
    clip_url_born_at: float | None = None
    clip_sha256: str | None = None
    clip_samples: int
    window_samples: int
    join_samples: int
    scene_end_samples: int | None = None  #: end of its own scene; None: unknown

    @classmethod
    def of(cls, segment: SegmentGenerated) -> Self | None:
        """Return the clip of `segment`; None for silence."""
        if segment.origin is Origin.SILENCE or segment.object_key is None:
            return None
        return cls(
            clip_key=segment.object_key,
            clip_url=segment.output_url,
            clip_url_born_at=segment.output_url_born_at,
            clip_sha256=segment.sha256,
            clip_samples=segment.clip_samples,
            window_samples=segment.window_samples,
            join_samples=segment.join_samples,
            scene_end_samples=segment.start_samples + segment.samples,
        )

    @property
    def origin_samples(self) -> int:
        """Return the clip's first sample on the track; may be negative."""
        return self.join_samples - self.window_samples


class Continuation(BaseModel):
    """The state of one job's newest run, as stored in the table."""

    model_config = ConfigDict(frozen=True)

    run: int
    scene_done: int = -1  #: the last finished scene; -1: none yet
    elapsed_s: str = "0"  #: exact sum of the finished scenes' lengths, as a fraction
    last_clip: LastClip | None = None
    spent_usd: float = 0.0  #: by its scenes so far, including failed attempts
    failure: JobFailed | None = None  #: the run ended here; later scenes are skipped
    provider: str | None = None  #: of its first composed scene; None: none is composed yet

    @property
    def elapsed(self) -> Fraction:
        """Return the finished seconds of the track."""
        return Fraction(self.elapsed_s)

    def after(self, segment: SegmentGenerated) -> Self:
        """Return the state after `segment`."""
        elapsed = self.elapsed + exact_seconds(segment.duration_s)
        return self.model_copy(
            update={
                "scene_done": segment.scene_index,
                "elapsed_s": str(elapsed),
                "last_clip": LastClip.of(segment) or self.last_clip,
                "spent_usd": self.spent_usd + (segment.cost_usd or 0.0),
                "provider": self.provider or (None if segment.kept else segment.provider),
            }
        )

    def ended(self, failure: JobFailed) -> Self:
        """Return the state after the run ended with `failure`."""
        spent_usd = self.spent_usd + (failure.cost_usd or 0.0)
        return self.model_copy(update={"failure": failure, "spent_usd": spent_usd})


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleSample:
    """The user's own music as a clip of whole seconds, continued by the run's first music.

    It is not part of the track: its end is where the music begins.
    """

    clip_key: str
    clip_sha256: str
    length_s: int

    @property
    def window(self) -> ContinuationWindow:
        """Return the window of the whole clip."""
        return ContinuationWindow(
            clip_key=self.clip_key,
            clip_url=None,
            clip_sha256=self.clip_sha256,
            start_s=0,
            end_s=self.length_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """The position of a scene's music, and the request to the provider."""

    start_samples: int
    samples: int
    join_samples: int  #: position of the first sample after the window
    window: ContinuationWindow | None
    duration_s: int  #: requested duration, window included
    continues_style: bool = False  #: the window is a style sample, not earlier music

    @property
    def window_samples(self) -> int:
        """Return the samples of old music at the head of the clip to come."""
        return self.window.length_s * SAMPLE_RATE_HZ if self.window else 0


def plan_scene(
    state: Continuation,
    scene: SceneRequested,
    *,
    window_s: int,
    style: StyleSample | None = None,
) -> ScenePlan:
    """Plan the next scene, with a window of `window_s` if possible.

    If there is no music yet, it continues all of `style`.

    Raises:
        JobError: the scene is shorter than a sample.
    """
    length = exact_seconds(scene.duration_s)
    start = samples_at(state.elapsed)
    samples = samples_at(state.elapsed + length) - start
    if samples < 1:
        raise JobError(
            f"scene {scene.scene_index + 1} lasts {scene.duration_s} s, less than one sample",
            code="scene_too_short",
        )
    window, join = _window(state.last_clip, start, window_s)
    continues_style = style is not None and state.last_clip is None
    if style is not None and continues_style:
        window = style.window
    # more than the scene if the new music starts before the cut
    early_s = -(-(start + samples - join) // SAMPLE_RATE_HZ)
    return ScenePlan(
        start_samples=start,
        samples=samples,
        join_samples=join,
        window=window,
        duration_s=max(math.ceil(length), early_s) + (window.length_s if window else 0),
        continues_style=continues_style,
    )


def _window(
    last: LastClip | None, start_samples: int, window_s: int
) -> tuple[ContinuationWindow | None, int]:
    """Return the window on the last clip, and the position of the music after it."""
    if last is None:
        return None, start_samples
    whole_s = last.clip_samples // SAMPLE_RATE_HZ  # the window must not exceed the clip
    cut_samples = start_samples - last.origin_samples  # the cut, relative to the clip
    end_s = min(whole_s, -(-cut_samples // SAMPLE_RATE_HZ))
    if end_s < 1:
        return None, start_samples
    window = ContinuationWindow(
        clip_key=last.clip_key,
        clip_url=last.clip_url,
        clip_url_born_at=last.clip_url_born_at,
        clip_sha256=last.clip_sha256,
        start_s=max(0, end_s - window_s),
        end_s=end_s,
    )
    end = last.origin_samples + end_s * SAMPLE_RATE_HZ
    follows = last.scene_end_samples == start_samples  # otherwise there was silence in between
    # The previous scene's clip may end before the whole second that reaches the cut (padding in
    # front of it counts, too): then it is continued where its last whole second ends.
    short = 0 < start_samples - end <= SAMPLE_RATE_HZ
    return window, end if follows and short else max(start_samples, end)
