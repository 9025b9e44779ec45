"""Finds hard cuts, dissolves and fades in a stream of frames. Pure.

A hard cut is a frame that the frame before does not explain, even after motion, and whose
neighbours are quiet; the pictures before and after a flash are alike, so a flash is not a cut.
In a dissolve the middle frame is the mean of the frames around it, which no camera movement
imitates. A fade passes through frames of one colour.

The detector keeps the frames of about 1.5 seconds, so memory does not depend on the film's length.
Thresholds were set on generated films; `benchmarks/bench_cuts.py` measures precision and recall.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from shared.scene_detection.frame import PLAIN_STD, Frame, contrast_energy, dissimilarity

CutKind = Literal["cut", "dissolve", "fade"]

_HARD = 0.45  # dissimilarity of neighbouring frames
_HARD_RATIO = 1.7  # over the median of the frames around
_JUMP = 0.27  # a smaller change is a cut, too, in a quiet shot
_JUMP_RATIO = 3.5  # over the greatest of the frames around
_SAME = 0.32  # below: the same shot
_DIFFERENT = 0.40  # above: another shot
_NEIGHBOURS = 6
_GROWS = 1.5  # contrast, in two frames
_FLASH_S = 0.35
_REACH_S = 0.65  # what the detector needs before and after a frame
_HALF_S = (0.2, 0.28, 0.36, 0.48, 0.6)  # half lengths of dissolves
_BLEND_MAX = 0.46  # distance of the middle frame from the mean, 0.5 is a hard cut
_BLEND_SURE = 0.32
_BLEND_STD = 0.36  # a mean of two pictures has about half their contrast
_BLEND_LIKELY = 0.4
_EDGES, _EDGES_SURE = 0.8, 1.1  # edges of the middle frame, relative to both ends
_OTHER_SHOT, _OTHER_SHOT_SURE = 0.5, 0.65
_GRADUAL_S = 0.6  # from a cut to the middle of a dissolve
_SIDE_MIN = 2  # frames on each side of the middle
_APART_STD = 0.45  # two shots differ by at least this share of their contrast
_BLOCK = 64  # frames dropped at once
_APART_S = 0.2  # between two cuts
_PEAK_S = 1.0
_LOW_MAX_S = 0.8
_LOW = 0.3  # of the contrast before: the bottom of a fade


@dataclass(frozen=True, slots=True)
class Cut:
    """A change of shot. A hard cut's time is its first frame; of the others, the middle."""

    time_s: float
    kind: CutKind


class CutDetector:
    """Receives the frames of a film in order and returns its cuts, a moment later."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._changes: list[float] = []  # dissimilarity of each frame to the one before
        self._next = 1  # index of the next frame to decide
        self._dissolve: tuple[float, float] | None = None  # distance and time of the best so far
        self._peak: Frame | None = None  # strongest contrast of the last second of this shot
        self._low: _LowContrast | None = None
        self._last_s = float("-inf")  # time of the last cut

    def push(self, frame: Frame) -> list[Cut]:
        """Accept the next frame; return the cuts that are now certain."""
        before = self._frames[-1] if self._frames else None
        self._frames.append(frame)
        self._changes.append(dissimilarity(before, frame) if before else 0.0)
        cuts = []
        while (
            self._next < len(self._frames)
            and self._frames[self._next].time_s + _REACH_S <= frame.time_s
        ):
            cuts += self._decide(self._next)
            self._next += 1
        self._forget()
        return cuts

    def finish(self) -> list[Cut]:
        """Return the cuts at the end of the film."""
        cuts = []
        while self._next < len(self._frames):
            cuts += self._decide(self._next)
            self._next += 1
        return cuts + self._end_dissolve()

    def _forget(self) -> None:
        """Drop the frames that no decision needs any more."""
        first_s = self._frames[min(self._next, len(self._frames) - 1)].time_s - _REACH_S
        unused = max(bisect_left(self._frames, first_s, key=_time) - _NEIGHBOURS - 1, 0)
        if unused > _BLOCK:  # in blocks: removing from the front of a list costs its length
            del self._frames[:unused], self._changes[:unused]
            self._next -= unused

    def _decide(self, index: int) -> list[Cut]:
        frame = self._frames[index]
        if not frame.is_plain and self._is_hard_cut(index):
            self._dissolve = self._low = None
            self._peak = frame
            return self._cut(frame.time_s, "cut")
        return self._follow_fade(index) or self._follow_dissolve(index)

    def _cut(self, time_s: float, kind: CutKind) -> list[Cut]:
        if time_s - self._last_s < _APART_S:
            return []
        self._last_s = time_s
        return [Cut(time_s, kind)]

    # hard cuts

    def _is_hard_cut(self, index: int) -> bool:
        change = self._changes[index]
        if change < _JUMP:
            return False
        around = (
            self._changes[max(index - _NEIGHBOURS, 1) : index]
            + self._changes[index + 1 : index + 1 + _NEIGHBOURS]
        )
        if not around:
            return change >= _HARD
        if change < _HARD and change < _JUMP_RATIO * max(around):
            return False
        if self._is_fading_in(index):
            return False
        return change >= _HARD_RATIO * median(around) and not self._is_flash(index)

    def _is_fading_in(self, index: int) -> bool:
        """Return whether contrast still grows after a frame of one colour."""
        ahead = self._frames[min(index + 2, len(self._frames) - 1)]
        return self._frames[index - 1].is_plain and ahead.std > _GROWS * self._frames[index].std

    def _is_flash(self, index: int) -> bool:
        """Return whether a picture from before the change is seen again soon after it."""
        time_s = self._frames[index].time_s
        first = bisect_left(self._frames, time_s - _FLASH_S, key=_time)
        earlier = [frame for frame in self._frames[first:index] if not frame.is_plain]
        later = [frame for frame in self._between(index, time_s + _FLASH_S) if not frame.is_plain]
        return any(
            dissimilarity(before, after) < _SAME
            for before in earlier[-1:] + earlier[-3::-2]
            for after in later[::2]
        )

    def _between(self, index: int, until_s: float) -> Sequence[Frame]:
        return self._frames[index : bisect_left(self._frames, until_s, lo=index, key=_time)]

    # dissolves

    def _follow_dissolve(self, index: int) -> list[Cut]:
        """Note the frame if it is the middle of a dissolve; report the best when it is over."""
        distance = self._blend_distance(index)
        time_s = self._frames[index].time_s
        if distance < _BLEND_MAX:
            if self._dissolve is None or distance < self._dissolve[0]:
                self._dissolve = (distance, time_s)
            return []
        if self._dissolve is not None and time_s - self._dissolve[1] > _REACH_S:
            return self._end_dissolve()
        return []

    def _end_dissolve(self) -> list[Cut]:
        if self._dissolve is None or self._low is not None:
            return []  # none, or the first half of a fade
        time_s = self._dissolve[1]
        self._dissolve = None
        return self._cut(time_s, "dissolve")

    def _blend_distance(self, index: int) -> float:
        """Return how far the frame is from the mean of two other shots around it, 1 if none."""
        middle = self._frames[index]
        best = 1.0
        for half_s in _HALF_S:
            left = bisect_left(self._frames, middle.time_s - half_s, key=_time)
            right = bisect_left(self._frames, middle.time_s + half_s, key=_time)
            if left == 0 and self._frames[0].time_s > middle.time_s - half_s + 0.02:
                continue
            if right >= len(self._frames) or min(index - left, right - index) < _SIDE_MIN:
                continue
            distance = self._distance(left, index, right)
            if distance < min(best, _BLEND_MAX) and self._is_blend(left, index, right, distance):
                best = distance
        return best

    def _is_blend(self, left: int, index: int, right: int, distance: float) -> bool:
        """Return whether two shots overlap: other pictures, no jump, and fewer edges between."""
        first, middle, last = self._frames[left], self._frames[index], self._frames[right]
        if max(self._changes[left + 1 : right + 1]) >= _HARD:
            return False
        if middle.time_s - self._last_s < _GRADUAL_S:
            return False
        edges = contrast_energy(middle) / max(
            (contrast_energy(first) * contrast_energy(last)) ** 0.5, 1e-6
        )
        if edges > (_EDGES_SURE if distance < _BLEND_SURE else _EDGES):
            return False
        other = _OTHER_SHOT if distance < _BLEND_LIKELY else _OTHER_SHOT_SURE
        return dissimilarity(first, last) > other

    def _distance(self, left: int, index: int, right: int) -> float:
        first, last = self._frames[left], self._frames[right]
        if min(first.std, last.std) < PLAIN_STD:
            return 1.0
        if self._frames[index].std < _BLEND_STD * max(first.std, last.std):
            return 1.0
        difference = last.planes[0] - first.planes[0]
        apart = float(np.sqrt((difference**2).mean()))
        if apart <= max(_APART_STD * (first.std + last.std) / 2, PLAIN_STD):
            return 1.0
        mean = (first.planes[0] + last.planes[0]) / 2
        return float(np.sqrt(((self._frames[index].planes[0] - mean) ** 2).mean())) / apart

    # fades

    def _follow_fade(self, index: int) -> list[Cut]:
        """Note where contrast is lost; report a fade when it comes back with another picture."""
        frame = self._frames[index]
        is_old = self._peak is None or frame.time_s - self._peak.time_s > _PEAK_S
        if is_old and self._low is None:
            self._peak = self._strongest(index, frame.time_s - _PEAK_S)
        if self._peak is None or frame.std > self._peak.std:
            self._peak = frame
        is_low = frame.std < max(PLAIN_STD, _LOW * self._peak.std)
        if self._low is None:
            if is_low:
                before = self._nearest(self._frames[index - 1 :: -1], self._peak.std)
                self._low = _LowContrast(frame.time_s, before)
        elif not is_low:
            low, self._low = self._low, None
            return self._end_fade(index, low)
        elif not frame.is_plain and frame.time_s - self._low.since_s > _LOW_MAX_S:
            self._low, self._peak = None, frame  # a shot of low contrast
        return []

    def _end_fade(self, index: int, low: "_LowContrast") -> list[Cut]:
        frame = self._frames[index]
        later = self._between(index, frame.time_s + _REACH_S)
        after = self._nearest(later, max(one.std for one in later))
        self._peak = frame
        if low.before.is_plain or dissimilarity(low.before, after) < _DIFFERENT:
            return []  # the film begins in one colour, or a flash
        self._dissolve = None
        return self._cut((low.since_s + frame.time_s) / 2, "fade")

    def _strongest(self, index: int, since_s: float) -> Frame:
        first = bisect_left(self._frames, max(since_s, self._last_s), key=_time)
        return max(self._frames[min(first, index) : index + 1], key=_contrast)

    @staticmethod
    def _nearest(frames: Sequence[Frame], peak: float) -> Frame:
        """Return the first frame with half the contrast of the peak, or else the strongest."""
        return next(
            (frame for frame in frames if frame.std >= peak / 2), max(frames, key=_contrast)
        )


@dataclass(frozen=True, slots=True)
class _LowContrast:
    """A passage that may be the bottom of a fade."""

    since_s: float
    before: Frame  #: the last frame with contrast


def _time(frame: Frame) -> float:
    return frame.time_s


def _contrast(frame: Frame) -> float:
    return frame.std
