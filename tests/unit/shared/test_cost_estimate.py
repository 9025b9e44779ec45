"""Costs: what is said before anything is spent."""

import pytest

from shared.cost_estimate import cost_usd, estimate, fits_budget, requested_s


def test_an_estimate_counts_whole_seconds_and_every_window_but_the_first() -> None:
    """Three scenes of 4.2, 3 and 0.5 s: 5 + (3 + 2) + (1 + 2) seconds of music."""
    told = estimate([4.2, 3, 0.5], window_s=2, provider="replicate")

    assert told.music_s == 13
    assert told.work_s == 26
    assert told.cost_usd == pytest.approx(26 * 0.0014)
    assert told.seconds == 26 + 3 * 3


def test_an_estimate_follows_another_price() -> None:
    """Hardware differs."""
    told = estimate([10], window_s=1, provider="replicate", usd_per_s=0.000975)

    assert told.cost_usd == pytest.approx(20 * 0.000975)


@pytest.mark.parametrize("provider", ["synth", "silence"])
def test_what_is_made_here_costs_nothing(provider: str) -> None:
    """And hardly takes time."""
    told = estimate([10] * 100, window_s=1, provider=provider)

    assert (told.music_s, told.cost_usd, told.work_s) == (1099, 0.0, 0.0)


def test_nothing_costs_nothing() -> None:
    """No scenes, no bill."""
    assert estimate([], window_s=1, provider="replicate").cost_usd == 0


def test_a_scene_shorter_than_a_second_is_asked_for_as_one() -> None:
    """The model knows whole seconds alone."""
    assert (requested_s(0.2, window_s=1), requested_s(1.0, window_s=0)) == (2, 1)


def test_work_that_nobody_counted_has_no_price() -> None:
    """Unknown is not free."""
    assert cost_usd(None, usd_per_s=0.0014) is None
    assert cost_usd(10.0, usd_per_s=0.0014) == pytest.approx(0.014)


@pytest.mark.parametrize(
    ("cap", "spent", "following", "fits"),
    [(None, 99, 99, True), (1, 0.5, 0.5, True), (1, 0.5, 0.51, False), (0, 0, 0, True)],
)
def test_a_cap_is_what_may_be_spent_in_all(
    cap: float | None, spent: float, following: float, *, fits: bool
) -> None:
    """The clip that would go beyond it is not made."""
    assert fits_budget(cap, spent_usd=spent, next_usd=following) is fits


def test_ten_tenths_are_one() -> None:
    """Sums of floats do not close a cap early."""
    assert fits_budget(1.0, spent_usd=sum([0.1] * 9), next_usd=0.1)
