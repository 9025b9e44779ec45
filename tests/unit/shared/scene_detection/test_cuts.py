"""Cuts are found where the shot changes, and nowhere else."""

import numpy as np
import pytest

from shared.scene_detection.cuts import CutDetector
from shared.scene_detection.frame import frame_of
from tests.support.shots import FPS, cuts_of, dissolve, flash, pan, plain, still

ONE_FRAME_S = 1 / FPS


@pytest.mark.parametrize("seed", range(5))
def test_a_hard_cut_is_the_first_frame_of_the_new_shot(seed: int) -> None:
    """Time and kind of a cut between still, moving and dark shots."""
    shots = [
        still(seed, 30),
        pan(seed + 100, 40, cells_per_frame=1.5),
        still(seed + 200, 30, mean=30, contrast=8),
        pan(seed + 300, 25, cells_per_frame=0.5),
    ]
    cuts = cuts_of(*shots)
    assert [cut.kind for cut in cuts] == ["cut"] * 3
    assert [cut.time_s for cut in cuts] == pytest.approx([30 / FPS, 70 / FPS, 100 / FPS])


def test_shots_of_half_a_second_are_all_found() -> None:
    """Sixty cuts a minute and more."""
    cuts = cuts_of(*(still(seed, 12) for seed in range(12)))
    assert [cut.time_s for cut in cuts] == pytest.approx([12 * n / FPS for n in range(1, 12)])


@pytest.mark.parametrize("frames", [10, 16, 25])
@pytest.mark.parametrize("seed", range(4))
def test_a_dissolve_is_one_cut_in_its_middle(seed: int, frames: int) -> None:
    """Dissolves of 0.4 to 1 second."""
    film = dissolve(pan(seed, 60, cells_per_frame=0.2), still(seed + 100, 60), frames)
    (cut,) = cuts_of(film)
    assert cut.kind == "dissolve"
    assert abs(cut.time_s - (60 - frames / 2) / FPS) <= max(frames / 3, 3) / FPS


@pytest.mark.parametrize("colour", [16, 235])
def test_a_fade_through_one_colour_is_one_cut(colour: float) -> None:
    """Fades through black and white, with and without a pause."""
    for pause in (1, 10):
        first = dissolve(still(1, 60), plain(colour, 30 + pause), 15)
        film = dissolve(first, still(2, 60), 15)
        (cut,) = cuts_of(film)
        assert cut.kind == "fade"
        assert (60 - 15) / FPS <= cut.time_s <= (60 + pause + 30) / FPS


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_flash_is_not_a_cut(frames: int) -> None:
    """The picture before the flash comes back."""
    assert cuts_of(flash(pan(3, 60, cells_per_frame=0.3), 30, frames)) == []


@pytest.mark.parametrize("cells_per_frame", [0.5, 1.0, 2.0, 3.0])
def test_a_camera_pan_is_not_a_cut(cells_per_frame: float) -> None:
    """Neither a slow pan nor one that changes the whole picture in a second."""
    for seed in range(4):
        assert cuts_of(pan(seed, 100, cells_per_frame=cells_per_frame)) == []


def test_exposure_and_fades_at_the_ends_are_not_cuts() -> None:
    """A picture that gets brighter, and a film that begins and ends black."""
    shot = still(5, 100)
    brighter = shot * np.linspace(0.4, 1, 100, dtype=np.float32)[:, None, None, None]
    brighter[:, 1:] = shot[:, 1:]
    assert cuts_of(brighter) == []
    film = dissolve(dissolve(plain(16, 30), shot, 15), plain(16, 30), 15)
    assert cuts_of(film) == []


def test_frames_of_varying_length_are_compared_by_time() -> None:
    """Variable frame rate: the cut has the time of its frame."""
    rng = np.random.default_rng(7)
    times = np.cumsum(rng.choice([1, 1, 2, 3], 120) / 60).tolist()
    cuts = cuts_of(still(1, 50), still(2, 70), times=times)
    assert [cut.time_s for cut in cuts] == pytest.approx([times[50]])


def test_a_cut_at_the_end_is_found_and_one_frame_has_none() -> None:
    """The last moments are decided when the film ends."""
    assert [cut.time_s for cut in cuts_of(still(1, 40), still(2, 6))] == [40 / FPS]
    assert cuts_of(still(1, 1)) == []
    assert CutDetector().finish() == []


def test_the_detector_keeps_a_bounded_number_of_frames() -> None:
    """Memory does not grow with the film."""
    detector = CutDetector()
    shots = [still(seed, 1)[0] for seed in range(6)]
    for index in range(3000):
        detector.push(frame_of(index / FPS, shots[index // 500]))
    assert len(detector._frames) < 250
