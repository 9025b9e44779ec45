"""Tests of crossfade: matching a window, crossfading, fading, measuring clicks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.crossfade import click_ratio, crossfade, fade_in_curve, match
from shared.media.samples import Audio, rms, silence
from tests.support.audio_builders import music

LAG_MAX = 2400


def a_piece(first: int, samples: int, *, piece: int = 0) -> Audio:
    """Return a stretch of the test music."""
    return music(first + np.arange(samples), piece=piece)


def noise(seed: int, samples: int = 48_000) -> Audio:
    """Return noise that correlates with nothing else."""
    return np.random.default_rng(seed).normal(0, 0.1, (2, samples)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(lag=st.integers(-2300, 2300), gain_db=st.floats(-12, 12))
def test_match_finds_the_lag_and_gain_of_a_late_and_louder_window(lag: int, gain_db: float) -> None:
    """Lag to the sample, level to a hundredth of a decibel."""
    tail = a_piece(10_000, 48_000)
    head = a_piece(10_000 - lag, 48_000 + LAG_MAX) * np.float32(10 ** (gain_db / 20))

    matched = match(tail, head, lag_max=LAG_MAX)

    assert matched.lag_samples == lag
    assert matched.correlation == pytest.approx(1.0, abs=1e-3)
    assert matched.gain_db == pytest.approx(-gain_db, abs=0.01)


def test_match_returns_the_smallest_lag_of_a_periodic_tone() -> None:
    """440 Hz repeats every 109 samples; the lag is 0."""
    tone = np.sin(2 * np.pi * 440 / 48_000 * np.arange(60_000)).astype(np.float32)
    both = np.stack([tone, tone])

    assert match(both[:, :48_000], both, lag_max=LAG_MAX).lag_samples == 0


def test_match_returns_lag_0_for_uncorrelated_audio() -> None:
    """A chance peak is ignored."""
    matched = match(noise(1), noise(2), lag_max=LAG_MAX)

    assert matched.lag_samples == 0
    assert abs(matched.correlation) < 0.1


def test_match_returns_no_gain_for_silence() -> None:
    """For a silent tail and for a silent window."""
    for tail, head in ((silence(9600), noise(1)), (noise(1), silence(9600))):
        matched = match(tail, head, lag_max=LAG_MAX)

        assert (matched.lag_samples, matched.correlation, matched.gain_db) == (0, 0.0, None)


def test_a_crossfade_of_the_same_music_has_no_bulge() -> None:
    """Equal power would lift the middle by 3 dB."""
    piece = a_piece(0, 4800)

    np.testing.assert_allclose(crossfade(piece, piece), piece, atol=1e-5)


def test_a_crossfade_of_uncorrelated_audio_has_no_dip() -> None:
    """Equal gain would lower the middle by 3 dB."""
    middle = crossfade(noise(1), noise(2))[:, 20_000:28_000]

    assert 20 * np.log10(rms(middle) / 0.1) == pytest.approx(0.0, abs=0.15)


@settings(max_examples=25, deadline=None)
@given(correlation=st.floats(0, 1))
def test_a_crossfade_of_correlated_audio_keeps_its_power(correlation: float) -> None:
    """For any correlation from 0 to 1."""
    leaving = noise(1)
    entering = correlation * leaving + np.sqrt(1 - correlation**2) * noise(2)

    middle = crossfade(leaving, entering.astype(np.float32))[:, 20_000:28_000]

    assert 20 * np.log10(rms(middle) / 0.1) == pytest.approx(0.0, abs=0.25)


def test_a_crossfade_begins_with_one_side_and_ends_with_the_other() -> None:
    """Otherwise its ends would click."""
    leaving, entering = noise(1, 4800), noise(2, 4800)

    blended = crossfade(leaving, entering)

    np.testing.assert_allclose(blended[:, 0], leaving[:, 0], atol=1e-4)
    np.testing.assert_allclose(blended[:, -1], entering[:, -1], atol=1e-4)


def test_the_fade_in_curve_rises_from_0_to_1() -> None:
    """It is monotonic and 0.5 in the middle, so reversed it is the fade-out."""
    curve = fade_in_curve(1001)

    assert curve[0] < 1e-5
    assert curve[-1] > 1 - 1e-5
    assert curve[500] == pytest.approx(0.5)
    assert (np.diff(curve) >= 0).all()
    assert fade_in_curve(0).size == 0


def test_the_click_ratio_separates_music_from_a_hard_cut() -> None:
    """Music stays below 10; two pieces joined end to end exceed 100."""
    cut = np.concatenate([a_piece(0, 2400), a_piece(90_000, 2400, piece=5)], axis=1)

    through, seam = click_ratio(a_piece(0, 4800)), click_ratio(cut)

    assert through is not None
    assert seam is not None
    assert through < 10
    assert seam > 100
    assert click_ratio(silence(4800)) is None
