"""Voice: one clip at its place on the track and at its level.

Shapes: float32 `(channels, samples)`. Units: places and lengths are samples of the track, gains
decibels. Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.events import SegmentGenerated
from shared.media import SAMPLE_RATE_HZ, Audio, silence

GAIN_DB_MAX = 12.0  # over all joints of a chain
_RESTING_GAIN_DB = 6.0  # a gain beyond it glides back, so that a long chain cannot run away
_GLIDE_DB_PER_S = 1.0  # slower than anyone hears as a fade


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
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
class Voice:
    """A clip that is heard from `begin` on."""

    segment: SegmentGenerated
    clip: Audio
    zero: int  #: place of the clip's first sample, heard or not; may lie before the track
    begin: int
    level: Level
    fade_in: int  #: samples; 0: it enters at full level
    spliced: bool  #: it goes on from the music before it

    @property
    def clip_end(self) -> int:
        """The place behind the clip's last sample."""
        return self.zero + int(self.clip.shape[1])

    @property
    def music_from(self) -> int:
        """The place of the first sample that is not padding."""
        return self.zero + self.segment.padding_samples

    def between(self, start: int, end: int) -> Audio:
        """What sounds in `[start, end)`, unfaded; silence where the clip has nothing."""
        first, last = max(start, self.zero), min(end, self.clip_end)
        heard = silence(end - start)
        if first < last:
            part = self.clip[:, first - self.zero : last - self.zero]
            heard[:, first - start : last - start] = self.level.applied(part, first)
        return heard


def shape(block: Audio, curve: NDArray[np.float32], *, at: int) -> None:
    """Multiply `block` by `curve` where the two overlap; the curve begins at `at` of the block."""
    first, last = max(0, at), min(block.shape[1], at + curve.size)
    if first < last:
        block[:, first:last] *= curve[first - at : last - at]
