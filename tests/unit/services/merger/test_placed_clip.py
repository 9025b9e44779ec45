"""Tests of a placed clip: its gain over the track, its rendering and its seam."""

import numpy as np
import pytest

from services.merger.crossfade import Match
from services.merger.placed_clip import (
    GainCurve,
    PlacedClip,
    apply_curve,
    build_seam,
    clip_start_of,
    splice_clip,
)
from shared.media.samples import SAMPLE_RATE_HZ
from tests.support.event_builders import a_segment

RATE = SAMPLE_RATE_HZ


def a_clip(gain_db: float = 0.0, *, start: int = 1000, begin: int = 1000) -> PlacedClip:
    """Return a clip of ones, of a tenth of a second."""
    return PlacedClip(
        segment=a_segment(1, padding_samples=100),
        clip=np.ones((2, 4800), dtype=np.float32),
        start=start,
        begin=begin,
        gain=GainCurve(start_db=gain_db, start_samples=begin),
        fade_in=0,
        spliced=False,
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_an_extreme_gain_glides_back_by_one_decibel_per_second(sign: int) -> None:
    """To 6 dB; before its start it is constant."""
    gain = GainCurve(start_db=sign * 8.0, start_samples=RATE)

    seconds = [0, 1, 2, 2.5, 3, 10]
    expected = [8, 8, 7, 6.5, 6, 6]
    assert [gain.db_at(int(s * RATE)) for s in seconds] == pytest.approx(
        [sign * db for db in expected]
    )


def test_a_moderate_gain_is_constant() -> None:
    """6 dB and less."""
    gain = GainCurve(start_db=6.0, start_samples=0)

    assert gain.db_at(100 * RATE) == 6.0
    audio = gain.apply(np.ones((2, 10), dtype=np.float32), 0)
    np.testing.assert_allclose(audio, 10 ** (6 / 20), rtol=1e-6)


def test_an_extreme_gain_is_applied_along_its_curve() -> None:
    """Each sample has the gain of its own place."""
    gain = GainCurve(start_db=12.0, start_samples=0)

    audio = gain.apply(np.ones((2, 3 * RATE), dtype=np.float32), RATE)

    levels = 20 * np.log10(audio[0, ::RATE])
    np.testing.assert_allclose(levels, [11, 10, 9], atol=1e-3)


def test_a_clip_is_rendered_at_its_place_with_silence_around_it() -> None:
    """Any part of the track may be rendered."""
    clip = a_clip()
    assert (clip.clip_end, clip.music_start) == (5800, 1100)

    audio = clip.render(900, 5900)
    assert audio.shape == (2, 5000)
    assert audio[:, 100:4900].all()
    assert not audio[:, :100].any()
    assert not audio[:, 4900:].any()
    assert clip.render(1000, 1010).all()
    assert not clip.render(0, 1000).any()
    assert not clip.render(5800, 6000).any()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (1, [1, 2, 3, 1, 1]),
        (-1, [3, 1, 1, 1, 1]),
        (4, [1, 1, 1, 1, 2]),
        (5, [1, 1, 1, 1, 1]),
        (-2, [1, 1, 1, 1, 1]),
    ],
)
def test_a_curve_is_applied_where_it_overlaps_the_block(at: int, expected: list[float]) -> None:
    """It may begin before the block and end after it."""
    block = np.ones((2, 5), dtype=np.float32)

    apply_curve(block, np.array([2, 3], dtype=np.float32), at=at)

    np.testing.assert_array_equal(block[1], expected)


@pytest.mark.parametrize(
    ("before_db", "wanted_db", "gain_db", "step_db"),
    [
        (0.0, 2.0, 2.0, 0.0),
        (1.0, -3.0, -2.0, 0.0),
        (0.0, 9.0, 6.0, -3.0),  # at most 6 dB per joint
        (0.0, -9.0, -6.0, 3.0),
        (10.0, 5.0, 12.0, -3.0),  # at most 12 dB in a chain
        (0.0, None, 0.0, None),  # one side is silent
    ],
)
def test_a_spliced_clip_gets_the_level_of_the_music_before_it(
    before_db: float, wanted_db: float | None, gain_db: float, step_db: float | None
) -> None:
    """Within its limits; the remaining step is returned."""
    current = a_clip(before_db, start=0, begin=0)
    matched = Match(lag_samples=7, correlation=0.98765, gain_db=wanted_db)
    segment = a_segment(1, join_samples=2 * RATE, window_samples=RATE)

    placed, step = splice_clip(
        current, segment, current.clip, start=clip_start_of(segment), begin=0, matched=matched
    )

    assert (placed.start, placed.spliced, placed.fade_in) == (RATE, True, 0)
    assert placed.gain.start_db == pytest.approx(gain_db)
    assert step == (None if step_db is None else pytest.approx(step_db))
    seam = build_seam(placed, "splice", matched, step)
    assert (seam.scene_index, seam.lag_samples, seam.correlation) == (1, 7, 0.9877)
    assert seam.gain_db == pytest.approx(gain_db)


def test_a_seam_without_a_measurement_has_none() -> None:
    """The clip fades in."""
    seam = build_seam(a_clip(), "fade", None, None)

    assert (seam.level_step_db, seam.correlation, seam.lag_samples) == (None, None, 0)
