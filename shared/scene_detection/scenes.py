"""Groups shots into scenes. Pure.

A boundary between scenes is worth the difference of picture, movement and sound in the seconds
before and after it, so that a dialogue that alternates between two shots is one scene. The chosen
boundaries have the greatest total worth among all that keep every scene within the limits. Cuts
are preferred: a place inside a shot is used only where the longest allowed scene requires it.
"""

from bisect import bisect_left
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
    sums = _cumulated(slices)
    at_cuts = [cut.time_s for cut in cuts if 0 < cut.time_s < length_s]
    worths = {time_s: _worth(sums, time_s) - _WORTH_MIN for time_s in at_cuts}
    edges = [0.0, *at_cuts, length_s]
    for start_s, end_s in pairwise(edges):
        if end_s - start_s <= limits.scene_s_min:
            continue
        first, last = int(start_s / SLICE_S) + 1, int(end_s / SLICE_S)
        for index in range(first, last):
            time_s = slices[index].start_s
            if start_s < time_s < end_s:
                worths.setdefault(time_s, _worth(sums, time_s) + _INSIDE_SHOT)
    times = sorted(worths)
    return np.array(times), np.array([worths[time_s] for time_s in times])


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
    places = [0.0, *times.tolist(), length_s]
    totals = [0.0] + [float("-inf")] * (len(places) - 1)
    before = [0] * len(places)
    own = [0.0, *worths.tolist(), 0.0]
    for index in range(1, len(places)):
        place = places[index]
        first = bisect_left(places, place - longest - _NARROWER)
        last = bisect_left(places, place - shortest + _NARROWER, hi=index)
        for earlier in range(first, last):
            total = totals[earlier] + own[index]
            if total > totals[index]:
                totals[index], before[index] = total, earlier
    if totals[-1] == float("-inf"):
        return _even(length_s, longest)
    starts = []
    index = before[-1]
    while index > 0:
        starts.append(places[index])
        index = before[index]
    return [0.0, *reversed(starts)]


def _even(length_s: float, longest_s: float) -> list[float]:
    """Return scenes of equal length, for a film without a suitable boundary."""
    count = int(np.ceil(length_s / longest_s - _NARROWER))
    return [length_s * index / count for index in range(count)]


def _cumulated(slices: Sequence[Slice]) -> npt.NDArray[np.float64]:
    """Return cumulative sums of the features of slices, in units of a clear difference."""
    features = np.array(
        [
            [
                *(one.picture.ravel() / 128),
                one.contrast / 16,
                one.motion * 8,
                max(one.level_db, -60.0) / 10,
                one.speech,
            ]
            for one in slices
        ]
    )
    return np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)])


def _worth(sums: npt.NDArray[np.float64], time_s: float) -> float:
    """Return the difference between the seconds before and after `time_s`; 1 is clear."""
    count = len(sums) - 1
    at = min(max(round(time_s / SLICE_S), 1), count - 1) if count > 1 else 0
    if at == 0:
        return 0.0
    around = round(_AROUND_S / SLICE_S)
    first, last = max(at - around, 0), min(at + around, count)
    difference = np.abs(
        (sums[last] - sums[at]) / (last - at) - (sums[at] - sums[first]) / (at - first)
    )
    picture = float(np.sqrt((difference[:-4] ** 2).mean())) * 4
    return picture + float(difference[-4:] @ (0.25, 0.5, 0.4, 0.8))
