"""Tests of crossfade: matching a window, blending, fading, measuring clicks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.crossfade import click_ratio, crossfade, fade_in_curve, match
from shared.media.samples import Audio, rms, silence
from tests.support.audio_builders import music

LAG_MAX = 2400


def a_piece(first: int, samples: int, *, piece: int = 0) -> Audio:
    """Some music."""
    return music(first + np.arange(samples), piece=piece)


def noise(seed: int, samples: int = 48_000) -> Audio:
    """Sound that resembles nothing else."""
    return np.random.default_rng(seed).normal(0, 0.1, (2, samples)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(lag=st.integers(-2300, 2300), gain_db=st.floats(-12, 12))
def test_a_late_and_louder_window_is_found_where_it_is(lag: int, gain_db: float) -> None:
    """Lag to the sample, level to a hundredth of a decibel."""
    tail = a_piece(10_000, 48_000)
    head = a_piece(10_000 - lag, 48_000 + LAG_MAX) * np.float32(10 ** (gain_db / 20))

    found = match(tail, head, lag_max=LAG_MAX)

    assert found.lag_samples == lag
    assert found.correlation == pytest.approx(1.0, abs=1e-3)
    assert found.gain_db == pytest.approx(-gain_db, abs=0.01)


def test_a_tone_that_fits_at_every_period_is_not_shifted() -> None:
    """440 Hz is alike every 109 samples; no shift at all is the one that is meant."""
    tone = np.sin(2 * np.pi * 440 / 48_000 * np.arange(60_000)).astype(np.float32)
    both = np.stack([tone, tone])

    assert match(both[:, :48_000], both, lag_max=LAG_MAX).lag_samples == 0


def test_music_that_is_not_there_is_not_found_somewhere() -> None:
    """Unlike sounds have no lag, whatever chance offers."""
    found = match(noise(1), noise(2), lag_max=LAG_MAX)

    assert found.lag_samples == 0
    assert abs(found.correlation) < 0.1


def test_silence_matches_nothing_and_asks_for_no_gain() -> None:
    """Neither a silent tail nor a silent window says how loud the clip should be."""
    for tail, head in ((silence(9600), noise(1)), (noise(1), silence(9600))):
        found = match(tail, head, lag_max=LAG_MAX)

        assert (found.lag_samples, found.correlation, found.gain_db) == (0, 0.0, None)


def test_the_same_music_blends_without_a_bulge() -> None:
    """Equal power would lift the middle by 3 dB."""
    piece = a_piece(0, 4800)

    np.testing.assert_allclose(crossfade(piece, piece), piece, atol=1e-5)


def test_strange_sounds_blend_without_a_dip() -> None:
    """Equal gain would lower the middle by 3 dB."""
    middle = crossfade(noise(1), noise(2))[:, 20_000:28_000]

    assert 20 * np.log10(rms(middle) / 0.1) == pytest.approx(0.0, abs=0.15)


@settings(max_examples=25, deadline=None)
@given(likeness=st.floats(0, 1))
def test_what_is_half_alike_keeps_its_power_too(likeness: float) -> None:
    """The law follows the likeness that it measures."""
    leaving = noise(1)
    entering = likeness * leaving + np.sqrt(1 - likeness**2) * noise(2)

    middle = crossfade(leaving, entering.astype(np.float32))[:, 20_000:28_000]

    assert 20 * np.log10(rms(middle) / 0.1) == pytest.approx(0.0, abs=0.25)


def test_a_crossfade_begins_with_one_side_and_ends_with_the_other() -> None:
    """Otherwise its ends would click."""
    leaving, entering = noise(1, 4800), noise(2, 4800)

    blended = crossfade(leaving, entering)

    np.testing.assert_allclose(blended[:, 0], leaving[:, 0], atol=1e-4)
    np.testing.assert_allclose(blended[:, -1], entering[:, -1], atol=1e-4)


def test_a_rise_goes_from_nothing_to_all_and_never_back() -> None:
    """Its middle is half, so a fall mirrors it."""
    curve = fade_in_curve(1001)

    assert curve[0] < 1e-5
    assert curve[-1] > 1 - 1e-5
    assert curve[500] == pytest.approx(0.5)
    assert (np.diff(curve) >= 0).all()
    assert fade_in_curve(0).size == 0


def test_the_click_measure_tells_music_from_a_butt_joint() -> None:
    """Music stays below 10; two pieces set end to end do not."""
    butt = np.concatenate([a_piece(0, 2400), a_piece(90_000, 2400, piece=5)], axis=1)

    through, joint = click_ratio(a_piece(0, 4800)), click_ratio(butt)

    assert through is not None
    assert joint is not None
    assert through < 10
    assert joint > 100
    assert click_ratio(silence(4800)) is None
