"""Cost estimates: seconds, dollars and the budget."""

import pytest

from shared.cost_estimate import cost_usd, estimate, fits_budget, requested_s


def test_estimate_counts_whole_seconds_and_every_window_but_the_first() -> None:
    """Three scenes of 4.2, 3 and 0.5 s: 5 + (3 + 2) + (1 + 2) seconds of music."""
    result = estimate([4.2, 3, 0.5], window_s=2, provider="replicate")

    assert result.music_s == 13
    assert result.work_s == 26
    assert result.cost_usd == pytest.approx(26 * 0.0014)
    assert result.seconds == 26 + 3 * 3


def test_estimate_uses_the_given_price() -> None:
    """The price depends on the hardware."""
    result = estimate([10], window_s=1, provider="replicate", usd_per_s=0.000975)

    assert result.cost_usd == pytest.approx(20 * 0.000975)


@pytest.mark.parametrize("provider", ["synth", "silence"])
def test_estimate_of_local_music_is_free(provider: str) -> None:
    """It takes a fraction of its length."""
    result = estimate([10] * 100, window_s=1, provider=provider)

    assert (result.music_s, result.cost_usd, result.work_s) == (1099, 0.0, 0.0)


def test_estimate_of_an_unknown_provider_is_rejected() -> None:
    """Its cost is unknown, which is not free."""
    with pytest.raises(ValueError, match="orchestra is not a music provider; use one of synth, "):
        estimate([10], window_s=1, provider="orchestra")


def test_estimate_without_scenes_is_zero() -> None:
    """No scenes, no cost."""
    assert estimate([], window_s=1, provider="replicate").cost_usd == 0


def test_requested_seconds_are_rounded_up() -> None:
    """The model accepts whole seconds only."""
    assert (requested_s(0.2, window_s=1), requested_s(1.0, window_s=0)) == (2, 1)


def test_cost_of_unknown_work_is_unknown() -> None:
    """Unknown is not free."""
    assert cost_usd(None, usd_per_s=0.0014) is None
    assert cost_usd(10.0, usd_per_s=0.0014) == pytest.approx(0.014)


@pytest.mark.parametrize(
    ("cap", "spent", "following", "fits"),
    [(None, 99, 99, True), (1, 0.5, 0.5, True), (1, 0.5, 0.51, False), (0, 0, 0, True)],
)
def test_budget_limits_the_total_cost(
    cap: float | None, spent: float, following: float, *, fits: bool
) -> None:
    """A clip that would exceed it is not generated."""
    assert fits_budget(cap, spent_usd=spent, next_usd=following) is fits


def test_budget_tolerates_rounding_of_sums() -> None:
    """Sums of floats do not reach the limit early."""
    assert fits_budget(1.0, spent_usd=sum([0.1] * 9), next_usd=0.1)
