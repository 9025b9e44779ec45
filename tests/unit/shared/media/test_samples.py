"""Media: seconds become samples in one way, and durations decide everything."""

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
def test_seconds_become_the_nearest_sample(seconds: float, samples: int) -> None:
    """1.7 s are 81,600 samples, however a machine writes 1.7."""
    assert samples_at(seconds) == samples


def test_half_a_sample_rounds_upwards() -> None:
    """Always, not to even: neighbours must not round apart."""
    assert [samples_at(Fraction(n, 96_000)) for n in (1, 3, 5)] == [1, 2, 3]


def test_another_rate_counts_its_own_samples() -> None:
    """MusicGen speaks 32 kHz."""
    assert samples_at(1.5, rate_hz=32_000) == 48_000
    assert seconds_at(48_000, rate_hz=32_000) == 1.5


def test_a_float_is_the_decimal_a_person_wrote() -> None:
    """Ten scenes of 0.1 s are one second, exactly."""
    assert exact_seconds(1.7) == Fraction(17, 10)
    assert sum((exact_seconds(0.1) for _ in range(10)), Fraction(0)) == 1


@given(st.lists(decimals, min_size=1, max_size=50))
def test_spans_cut_at_exact_sums_leave_no_gap_and_no_overlap(lengths: list[float]) -> None:
    """Rounding the cuts instead of the lengths keeps the whole exact."""
    cuts = [Fraction(0)]
    for length in lengths:
        cuts.append(cuts[-1] + exact_seconds(length))
    samples = [samples_at(end) - samples_at(start) for start, end in pairwise(cuts)]

    assert sum(samples) == samples_at(cuts[-1])
    assert all(s >= 0 for s in samples)


@given(st.integers(0, 10**9))
def test_a_sample_is_found_again_at_its_moment(samples: int) -> None:
    """There and back."""
    assert samples_at(seconds_at(samples)) == samples


def test_silence_is_stereo_float32_of_the_asked_length() -> None:
    """The shape that everything downstream expects."""
    assert silence(3).shape == (2, 3)
    assert silence(3).dtype == np.float32
    assert rms(silence(3)) == rms(silence(0)) == 0.0


def test_rms_is_taken_over_both_channels() -> None:
    """One full-scale and one silent channel: half the power."""
    audio = np.array([[1.0] * 8, [0.0] * 8], dtype=np.float32)

    assert rms(audio) == pytest.approx(0.5**0.5)
