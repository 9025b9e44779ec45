"""Groups shots into scenes. Pure.

A boundary between scenes is worth the difference of picture, movement and sound in the seconds
before and after it, so that a dialogue that alternates between two shots is one scene. The chosen
boundaries have the greatest total worth among all that keep every scene within the limits. Cuts
are preferred: a place inside a shot is used only where the longest allowed scene requires it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shared.scene_detection.cuts import Cut
from shared.scene_detection.slices import SLICE_S, Slice

SCENE_S_MIN = 4.0
SCENE_S_MAX = 28.0
_AROUND_S = 6.0
_WORTH_MIN = 0.9  # of a boundary; less: the same scene
_INSIDE_SHOT = -20.0  # worth of a place without a cut
_QUIET_DB = -60.0
_OTHER_WEIGHTS = (0.25, 0.5, 0.4, 0.8)  # of contrast, motion, level and speech
_COST_MAX, _BISECTIONS = 64.0, 20
_NARROWER = 1e-6  # limits are compared with rounded times


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneLimits:
    """Limits of the scenes of a film.

    Raises:
        ValueError: a limit is not positive, or the longest is less than twice the shortest.
    """

    scene_s_min: float = SCENE_S_MIN
    scene_s_max: float = SCENE_S_MAX
    scenes_max: int | None = None

    def __post_init__(self) -> None:
        if self.scene_s_min <= 0 or self.scene_s_max < 2 * self.scene_s_min:
            raise ValueError(
                f"the longest scene ({self.scene_s_max:g} s) must be at least twice the shortest "
                f"({self.scene_s_min:g} s)"
            )
        if self.scenes_max is not None and self.scenes_max < 1:
            raise ValueError(f"at least one scene is needed, not {self.scenes_max}")


def scene_starts(
    cuts: Sequence[Cut], slices: Sequence[Slice], length_s: float, limits: SceneLimits
) -> list[float]:
    """Return when the scenes of the film begin; the first begins at 0.

    Raises:
        ValueError: `scenes_max` scenes of the longest length are shorter than the film.
    """
    count_max = limits.scenes_max
    if count_max is not None and count_max * limits.scene_s_max < length_s - _NARROWER:
        needed = int(np.ceil(length_s / limits.scene_s_max))
        raise ValueError(
            f"{count_max} scenes of at most {limits.scene_s_max:g} s do not fill a film of "
            f"{length_s:.1f} s: allow {needed} scenes, or longer ones"
        )
    times, worths = _boundaries(cuts, slices, length_s, limits)
    starts = _best(times, worths, length_s, limits)
    if count_max is None:
        return starts
    return _fewer(times, worths, length_s, limits, starts, count_max)


def _fewer(
    times: npt.NDArray[np.float64],
    worths: npt.NDArray[np.float64],
    length_s: float,
    limits: SceneLimits,
    starts: list[float],
    count_max: int,
) -> list[float]:
    """Return at most `count_max` starts: find by bisection what a boundary must cost for that."""
    low, high = 0.0, _COST_MAX
    for _ in range(_BISECTIONS):
        if len(starts) <= count_max and low == 0.0:
            return starts
        cost = (low + high) / 2
        fewer = _best(times, worths - cost, length_s, limits)
        if len(fewer) <= count_max:
            high, starts = cost, fewer
        else:
            low = cost
    return starts if len(starts) <= count_max else _even(length_s, length_s / count_max)


def _boundaries(
    cuts: Sequence[Cut], slices: Sequence[Slice], length_s: float, limits: SceneLimits
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the places where a scene may begin, in order, and what each is worth."""
    at_cuts = [cut.time_s for cut in cuts if 0 < cut.time_s < length_s]
    inside: list[float] = []
    for start_s, end_s in pairwise([0.0, *at_cuts, length_s]):
        if end_s - start_s <= limits.scene_s_min:
            continue
        first, last = int(start_s / SLICE_S) + 1, int(end_s / SLICE_S)
        inside += [one.start_s for one in slices[first:last] if start_s < one.start_s < end_s]
    times, chosen = np.unique([*at_cuts, *inside], return_index=True)
    penalties = np.where(chosen < len(at_cuts), -_WORTH_MIN, _INSIDE_SHOT)
    return times, _worths(_cumulated(slices), times) + penalties


def _best(
    times: npt.NDArray[np.float64],
    worths: npt.NDArray[np.float64],
    length_s: float,
    limits: SceneLimits,
) -> list[float]:
    """Return the starts with the greatest total worth within the limits."""
    shortest, longest = limits.scene_s_min, limits.scene_s_max
    if length_s < 2 * shortest or not len(times):
        return [0.0]
    places = np.array([0.0, *times, length_s])
    own = np.array([0.0, *worths, 0.0])
    totals = np.full(len(places), -np.inf)
    totals[0] = 0.0
    before = np.zeros(len(places), int)
    firsts = np.searchsorted(places, places - longest - _NARROWER)
    lasts = np.searchsorted(places, places - shortest + _NARROWER)
    for index in range(1, len(places)):
        earlier = totals[firsts[index] : lasts[index]]
        if len(earlier):
            best = int(earlier.argmax())
            totals[index] = earlier[best] + own[index]
            before[index] = firsts[index] + best
    if totals[-1] == float("-inf"):
        return _even(length_s, longest)
    starts = []
    index = int(before[-1])
    while index > 0:
        starts.append(float(places[index]))
        index = int(before[index])
    return [0.0, *reversed(starts)]


def _even(length_s: float, longest_s: float) -> list[float]:
    """Return scenes of equal length, for a film without a suitable boundary."""
    count = int(np.ceil(length_s / longest_s - _NARROWER))
    return [length_s * index / count for index in range(count)]


def _cumulated(slices: Sequence[Slice]) -> npt.NDArray[np.float64]:
    """Return cumulative sums of the features of slices, in units of a clear difference."""
    pictures = np.array([one.picture for one in slices]).reshape(len(slices), -1) / 128
    others = np.array(
        [
            (one.contrast / 16, one.motion * 8, max(one.level_db, _QUIET_DB) / 10, one.speech)
            for one in slices
        ]
    )
    features = np.hstack([pictures, others])
    return np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)])


def _worths(
    sums: npt.NDArray[np.float64], times: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the difference between the seconds before and after each time; 1 is clear."""
    count = len(sums) - 1
    if count < 2:  # noqa: PLR2004 - one slice has nothing before or after it
        return np.zeros(len(times))
    at = np.clip(np.rint(times / SLICE_S).astype(int), 1, count - 1)
    around = round(_AROUND_S / SLICE_S)
    first, last = np.maximum(at - around, 0), np.minimum(at + around, count)
    after = (sums[last] - sums[at]) / (last - at)[:, None]
    before = (sums[at] - sums[first]) / (at - first)[:, None]
    difference = np.abs(after - before)
    picture = np.sqrt((difference[:, :-4] ** 2).mean(1)) * 4
    worths: npt.NDArray[np.float64] = picture + difference[:, -4:] @ np.array(_OTHER_WEIGHTS)
    return worths
