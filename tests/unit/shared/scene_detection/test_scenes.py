"""Shots become scenes: within the limits, at cuts, and together as long as the film."""

from itertools import pairwise

import numpy as np
import pytest

from shared.scene_detection.cuts import Cut
from shared.scene_detection.scenes import SceneLimits, scene_starts
from shared.scene_detection.slices import SLICE_S, Slice


def _slices(*passages: tuple[float, float]) -> list[Slice]:
    """Return slices of a film: each passage has a length in seconds and a grey, 0 to 255."""
    slices: list[Slice] = []
    for length_s, grey in passages:
        for _ in range(round(length_s / SLICE_S)):
            picture = np.full((3, 4, 8), 128, np.float32)
            picture[0] = grey
            slices.append(Slice(len(slices) * SLICE_S, picture, 30.0, 0.02, -30.0, 0.0))
    return slices


def _cuts(*times: float) -> list[Cut]:
    return [Cut(time_s, "cut") for time_s in times]


def _lengths(starts: list[float], length_s: float) -> list[float]:
    return [round(end - start, 6) for start, end in pairwise([*starts, length_s])]


def test_shots_that_alternate_are_one_scene() -> None:
    """A dialogue between two pictures is not split; the change of place is."""
    dialogue = [(2.0, 90.0), (2.0, 150.0)] * 5
    film = _slices(*dialogue, (10.0, 20.0))
    starts = scene_starts(_cuts(*range(2, 21, 2)), film, 30.0, SceneLimits())
    assert starts == [0.0, 20.0]


def test_shots_that_look_alike_are_one_scene() -> None:
    """A cut between equal pictures does not begin a scene."""
    assert scene_starts(_cuts(5, 10, 15), _slices((20.0, 100.0)), 20.0, SceneLimits()) == [0.0]


def test_a_long_shot_is_split_where_the_picture_changes() -> None:
    """Forty seconds without a cut: two scenes, at the change of light."""
    film = _slices((22.0, 60.0), (18.0, 200.0))
    assert scene_starts([], film, 40.0, SceneLimits()) == [0.0, 22.0]


@pytest.mark.parametrize("seed", range(20))
def test_scenes_keep_the_limits_and_fill_the_film(seed: int) -> None:
    """Random films and limits."""
    rng = np.random.default_rng(seed)
    shots = rng.gamma(2, 3, int(rng.integers(1, 60))) + 0.2
    length_s = float(shots.sum())
    film = _slices(*((SLICE_S, float(rng.uniform(0, 255))) for _ in range(int(length_s * 2) + 1)))
    shortest = float(rng.uniform(1, 6))
    limits = SceneLimits(scene_s_min=shortest, scene_s_max=shortest * float(rng.uniform(2, 6)))
    cuts = _cuts(*np.cumsum(shots)[:-1].tolist())
    lengths = _lengths(scene_starts(cuts, film, length_s, limits), length_s)
    assert sum(lengths) == pytest.approx(length_s)
    if length_s >= 2 * shortest:
        assert min(lengths) >= shortest - 1e-3
    assert max(lengths) <= limits.scene_s_max + 1e-3


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_more_scenes_than_allowed(count: int) -> None:
    """`scenes_max` keeps the clearest boundaries."""
    film = _slices(*((10.0, grey) for grey in (20.0, 200.0, 60.0, 240.0, 100.0, 30.0, 180.0)))
    limits = SceneLimits(scene_s_max=100, scenes_max=count)
    starts = scene_starts(_cuts(*range(10, 70, 10)), film, 70.0, limits)
    assert 1 <= len(starts) <= count
    assert set(starts) <= set(range(0, 70, 10))


def test_limits_that_do_not_fit_are_an_error_with_a_solution() -> None:
    """The message states what would fit."""
    with pytest.raises(ValueError, match="at least twice the shortest"):
        SceneLimits(scene_s_min=10, scene_s_max=12)
    with pytest.raises(ValueError, match="at least one scene"):
        SceneLimits(scenes_max=0)
    with pytest.raises(ValueError, match="allow 4 scenes"):
        scene_starts([], _slices((100.0, 90.0)), 100.0, SceneLimits(scenes_max=3))


def test_a_film_shorter_than_a_scene_is_one_scene() -> None:
    """Ten milliseconds, and a film with a cut in its middle."""
    assert scene_starts([], _slices((0.5, 90.0)), 0.01, SceneLimits()) == [0.0]
    assert scene_starts(_cuts(3), _slices((3.0, 9.0), (3.0, 200.0)), 6.0, SceneLimits()) == [0.0]


def test_ten_thousand_cuts_and_ten_hours_are_grouped() -> None:
    """The longest film: every scene within the limits."""
    length_s = 36_000.0
    rng = np.random.default_rng(1)
    film = _slices(*((SLICE_S, grey) for grey in rng.uniform(0, 255, 72_000).tolist()))
    cuts = _cuts(*np.sort(rng.uniform(0, length_s, 10_000)).tolist())
    lengths = _lengths(scene_starts(cuts, film, length_s, SceneLimits()), length_s)
    assert sum(lengths) == pytest.approx(length_s)
    assert min(lengths) >= 4 - 1e-3
    assert max(lengths) <= 28 + 1e-3
