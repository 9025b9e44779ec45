"""Conversion between seconds and samples, and basic audio values."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.media.samples import exact_seconds, rms, samples_at, seconds_at, silence

decimals = st.decimals(min_value=0, max_value=100_000, places=3).map(float)


@pytest.mark.parametrize(
    ("seconds", "samples"), [(0, 0), (1.0, 48_000), (1.7, 81_600), (0.1, 4_800), (1 / 3, 16_000)]
)
def test_seconds_convert_to_the_nearest_sample(seconds: float, samples: int) -> None:
    """1.7 s are 81,600 samples, despite its binary value."""
    assert samples_at(seconds) == samples


def test_half_a_sample_rounds_up() -> None:
    """Always, not to even: equal cuts must round alike."""
    assert [samples_at(Fraction(n, 96_000)) for n in (1, 3, 5)] == [1, 2, 3]


def test_conversion_uses_the_given_rate() -> None:
    """MusicGen uses 32 kHz."""
    assert samples_at(1.5, rate_hz=32_000) == 48_000
    assert seconds_at(48_000, rate_hz=32_000) == 1.5


def test_float_is_the_decimal_that_was_written() -> None:
    """Ten scenes of 0.1 s are exactly one second."""
    assert exact_seconds(1.7) == Fraction(17, 10)
    assert sum((exact_seconds(0.1) for _ in range(10)), Fraction(0)) == 1


@given(st.lists(decimals, min_size=1, max_size=50))
def test_scenes_cut_at_exact_sums_have_no_gap_and_no_overlap(lengths: list[float]) -> None:
    """Rounding the cuts instead of the lengths keeps the total exact."""
    cuts = [Fraction(0)]
    for length in lengths:
        cuts.append(cuts[-1] + exact_seconds(length))
    samples = [samples_at(end) - samples_at(start) for start, end in pairwise(cuts)]

    assert sum(samples) == samples_at(cuts[-1])
    assert all(s >= 0 for s in samples)


@given(st.integers(0, 10**9))
def test_sample_converts_to_seconds_and_back(samples: int) -> None:
    """Without loss."""
    assert samples_at(seconds_at(samples)) == samples


def test_silence_is_stereo_float32_of_the_given_length() -> None:
    """The shape that all code expects."""
    assert silence(3).shape == (2, 3)
    assert silence(3).dtype == np.float32
    assert rms(silence(3)) == rms(silence(0)) == 0.0


def test_rms_covers_both_channels() -> None:
    """One full-scale and one silent channel: half the power."""
    audio = np.array([[1.0] * 8, [0.0] * 8], dtype=np.float32)

    assert rms(audio) == pytest.approx(0.5**0.5)
