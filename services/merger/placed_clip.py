"""Places a clip on the track at its gain, and describes its seam.

Shapes: float32 `(channels, samples)`. Units: places and lengths are samples of the track, gains
decibels. Pure.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.merger.crossfade import Match
from shared.contract.events import Seam, SegmentGenerated
from shared.media.samples import SAMPLE_RATE_HZ, Audio, silence

GAIN_DB_MAX = 12.0  # over all seams of a chain
JOIN_GAIN_DB_MAX = 6.0  # per seam; more is not a re-synthesis but other music
#: 5 ms: the shortest fade that does not click
EDGE_SAMPLES = SAMPLE_RATE_HZ // 200
#: 1 s: a short clip lets its successor enter early, but not in the middle of its scene
EARLY_SAMPLES_MAX = SAMPLE_RATE_HZ
_RESTING_GAIN_DB = 6.0  # a gain beyond it glides back, so that a long chain cannot run away
_GLIDE_DB_PER_S = 1.0  # too slow to be heard as a fade


@dataclass(frozen=True, slots=True, kw_only=True)
class GainCurve:
    """The gain of one clip over the track; an extreme gain glides back."""

    start_db: float
    start_samples: int  #: before this place the gain is `start_db`

    def db_at(self, place: int) -> float:
        """Return the gain at a place of the track."""
        return float(self._db_at(np.array([place]))[0])

    def apply(self, audio: Audio, place: int) -> Audio:
        """Return `audio` with this gain; its first sample is at `place`."""
        if abs(self.start_db) <= _RESTING_GAIN_DB:
            return audio * np.float32(10 ** (self.start_db / 20))
        curve_db = self._db_at(np.arange(place, place + audio.shape[1]))
        return audio * (10 ** (curve_db / 20)).astype(np.float32)

    def _db_at(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        passed_s = np.maximum(0, places - self.start_samples) / SAMPLE_RATE_HZ
        excess_db = max(0.0, abs(self.start_db) - _RESTING_GAIN_DB)
        back_db = np.minimum(excess_db, passed_s * _GLIDE_DB_PER_S)
        return np.asarray(self.start_db - np.sign(self.start_db) * back_db, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedClip:
    """A clip that sounds from `begin` on."""

    segment: SegmentGenerated
    clip: Audio
    start: int  #: place of the clip's first sample, audible or not; may be before the track
    begin: int
    gain: GainCurve
    fade_in: int  #: samples; 0: it enters at full level
    spliced: bool  #: it continues the music before it

    @property
    def clip_end(self) -> int:
        """The place after the clip's last sample."""
        return self.start + int(self.clip.shape[1])

    @property
    def music_start(self) -> int:
        """The place of the first sample that is not padding."""
        return self.start + self.segment.padding_samples

    def render(self, start: int, end: int) -> Audio:
        """Return the clip's audio in `[start, end)` without fades; silence outside the clip."""
        first, last = max(start, self.start), min(end, self.clip_end)
        audio = silence(end - start)
        if first < last:
            part = self.clip[:, first - self.start : last - self.start]
            audio[:, first - start : last - start] = self.gain.apply(part, first)
        return audio


def apply_curve(block: Audio, curve: NDArray[np.float32], *, at: int) -> None:
    """Multiply `block` by `curve`, which begins at sample `at` of the block."""
    first, last = max(0, at), min(block.shape[1], at + curve.size)
    if first < last:
        block[:, first:last] *= curve[first - at : last - at]


def splice_clip(
    current: PlacedClip,
    segment: SegmentGenerated,
    clip: Audio,
    *,
    start: int,
    begin: int,
    matched: Match,
) -> tuple[PlacedClip, float | None]:
    """Place `clip` so that it continues `current` at `begin` at its level.

    Also returns the level step that remains, in dB; None if one side of the match is silent.
    """
    wanted_db = matched.gain_db or 0.0
    applied_db = float(np.clip(wanted_db, -JOIN_GAIN_DB_MAX, JOIN_GAIN_DB_MAX))
    before_db = current.gain.db_at(begin)
    gain_db = float(np.clip(before_db + applied_db, -GAIN_DB_MAX, GAIN_DB_MAX))
    step_db = None if matched.gain_db is None else gain_db - before_db - wanted_db
    placed = PlacedClip(
        segment=segment,
        clip=clip,
        start=start,
        begin=begin,
        gain=GainCurve(start_db=gain_db, start_samples=begin),
        fade_in=0,
        spliced=True,
    )
    return placed, step_db


def clip_start_of(segment: SegmentGenerated) -> int:
    """Return the place of the clip's first sample; it may be before the track."""
    return segment.join_samples - segment.window_samples


def build_seam(
    placed: PlacedClip,
    kind: Literal["splice", "fade"],
    matched: Match | None,
    step_db: float | None,
) -> Seam:
    """Return the seam where `placed` enters, with its measurements."""
    return Seam(
        scene_index=placed.segment.scene_index,
        at_samples=placed.begin,
        kind=kind,
        gain_db=round(placed.gain.start_db, 3),
        level_step_db=None if step_db is None else round(step_db, 3),
        correlation=round(matched.correlation, 4) if matched else None,
        lag_samples=matched.lag_samples if matched else 0,
    )
