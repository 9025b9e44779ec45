"""PlacedClip: one clip at its place on the track and at its level.

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

GAIN_DB_MAX = 12.0  # over all joints of a chain
JOIN_GAIN_DB_MAX = 6.0  # per joint; more is not a re-synthesis but other music
#: 5 ms: the shortest fade that does not click
EDGE_SAMPLES = SAMPLE_RATE_HZ // 200
#: 1 s: a short clip lets its successor enter early, but not in the middle of its scene
EARLY_SAMPLES_MAX = SAMPLE_RATE_HZ
_RESTING_GAIN_DB = 6.0  # a gain beyond it glides back, so that a long chain cannot run away
_GLIDE_DB_PER_S = 1.0  # slower than anyone hears as a fade


@dataclass(frozen=True, slots=True, kw_only=True)
class GainCurve:
    """The gain of one clip over the track: what its join asked for, gliding back if extreme."""

    start_db: float
    start_samples: int  #: before this place the gain is `start_db`

    def db_at(self, place: int) -> float:
        """The gain at a place of the track."""
        return float(self._db_at(np.array([place]))[0])

    def applied(self, audio: Audio, place: int) -> Audio:
        """`audio`, whose first sample lies at `place`, at this level."""
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
    """A clip that is heard from `begin` on."""

    segment: SegmentGenerated
    clip: Audio
    start: int  #: place of the clip's first sample, heard or not; may lie before the track
    begin: int
    level: GainCurve
    fade_in: int  #: samples; 0: it enters at full level
    spliced: bool  #: it goes on from the music before it

    @property
    def clip_end(self) -> int:
        """The place behind the clip's last sample."""
        return self.start + int(self.clip.shape[1])

    @property
    def music_start(self) -> int:
        """The place of the first sample that is not padding."""
        return self.start + self.segment.padding_samples

    def render(self, start: int, end: int) -> Audio:
        """What sounds in `[start, end)`, unfaded; silence where the clip has nothing."""
        first, last = max(start, self.start), min(end, self.clip_end)
        heard = silence(end - start)
        if first < last:
            part = self.clip[:, first - self.start : last - self.start]
            heard[:, first - start : last - start] = self.level.applied(part, first)
        return heard


def apply_curve(block: Audio, curve: NDArray[np.float32], *, at: int) -> None:
    """Multiply `block` by `curve` where the two overlap; the curve begins at `at` of the block."""
    first, last = max(0, at), min(block.shape[1], at + curve.size)
    if first < last:
        block[:, first:last] *= curve[first - at : last - at]


def continued_gain(last: PlacedClip, begin: int, found: Match) -> tuple[GainCurve, float | None]:
    """The level at which a clip goes on from `last` at `begin`, and the step that is left, dB."""
    wanted_db = found.gain_db or 0.0
    given_db = float(np.clip(wanted_db, -JOIN_GAIN_DB_MAX, JOIN_GAIN_DB_MAX))
    before_db = last.level.db_at(begin)
    gain_db = float(np.clip(before_db + given_db, -GAIN_DB_MAX, GAIN_DB_MAX))
    step_db = None if found.gain_db is None else gain_db - before_db - wanted_db
    return GainCurve(start_db=gain_db, start_samples=begin), step_db


def clip_start_of(segment: SegmentGenerated) -> int:
    """Where the first sample of the clip of `segment` belongs; may lie before the track."""
    return segment.join_samples - segment.window_samples


def build_seam(
    placed: PlacedClip, kind: Literal["splice", "fade"], found: Match | None, step_db: float | None
) -> Seam:
    """What was measured where `placed` enters."""
    return Seam(
        scene_index=placed.segment.scene_index,
        at_samples=placed.begin,
        kind=kind,
        gain_db=round(placed.level.start_db, 3),
        level_step_db=None if step_db is None else round(step_db, 3),
        correlation=round(found.correlation, 4) if found else None,
        lag_samples=found.lag_samples if found else 0,
    )
