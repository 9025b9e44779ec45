"""Retry: waits grow, are capped, differ between lanes, and honour what was asked."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.processing.retry import RetryPolicy

POLICY = RetryPolicy(first_s=1.0, max_s=60.0)


@pytest.mark.parametrize(
    ("attempt", "cap_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (5000, 60.0)]
)
def test_the_wait_doubles_up_to_its_cap(attempt: int, cap_s: float) -> None:
    """Jitter takes at most half of it away."""
    chance = random.Random(1)
    waits = [POLICY.delay_s(attempt, chance=chance) for _ in range(200)]

    assert cap_s / 2 <= min(waits) <= max(waits) <= cap_s
    assert max(waits) - min(waits) > cap_s / 4, "a thousand lanes must not come back together"


@given(asked=st.floats(0, 3600), attempt=st.integers(1, 100), seed=st.integers())
def test_a_wait_that_was_asked_for_is_never_shortened(
    asked: float, attempt: int, seed: int
) -> None:
    """And lengthened by a quarter of the own wait at most."""
    wait_s = POLICY.delay_s(attempt, asked_s=asked, chance=random.Random(seed))

    assert asked <= wait_s <= asked + POLICY.max_s / 4
