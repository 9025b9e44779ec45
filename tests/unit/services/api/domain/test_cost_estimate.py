"""Cost estimates of runs, and the check against the cost limit."""

from typing import Any

import pytest

from services.api.domain.cost_estimate import MAX_COST_FIELD, check_cap, dollars, estimate_of
from services.api.domain.run_spec import RequestInvalidError, RunSpec
from shared.contract.params import AudioParams, AudioRef, OnMaxCost, Scene
from shared.cost_estimate import REPLICATE_USD_PER_S, WORK_S_PER_MUSIC_S
from shared.pricing import PricingSettings, ReplicateAccount

REPLICATE = PricingSettings(wanted="replicate", window_s=2)
STYLE = AudioRef(object="styles/x")
#: two scenes of 1.7 and 2.3 s: 2 + (3 + 2) seconds of music
COST_USD = 7 * WORK_S_PER_MUSIC_S * REPLICATE_USD_PER_S


def a_run(*, lengths: tuple[float, ...] = (1.7, 2.3), **params: Any) -> RunSpec:
    """Return a run with scenes of these lengths."""
    return RunSpec(
        job_id="j",
        scenes=tuple(Scene(duration_s=length) for length in lengths),
        video=None,
        params=AudioParams.model_validate(params),
    )


def test_the_estimate_uses_the_providers_window_and_price() -> None:
    """Two scenes: their rounded seconds and one continuation window."""
    estimate = estimate_of(a_run(), REPLICATE)

    assert (estimate.provider, estimate.music_s) == ("replicate", 7)
    assert estimate.cost_usd == pytest.approx(COST_USD)
    assert estimate.seconds == 7 * 2 + 3 * 2


def test_a_style_sample_adds_a_window_to_the_first_scene() -> None:
    """The style window is longer, and is charged like the others."""
    assert estimate_of(a_run(style_audio=STYLE), REPLICATE).music_s == 7 + 5


def test_the_estimate_uses_the_configured_price() -> None:
    """SEGUE_REPLICATE_USD_PER_S sets the price per second."""
    expensive = PricingSettings(wanted="replicate", replicate=ReplicateAccount(usd_per_s=1))

    assert estimate_of(a_run(lengths=(1,)), expensive).cost_usd == pytest.approx(2.0)


@pytest.mark.parametrize("provider", ["synth", "silence"])
def test_a_local_provider_passes_any_limit(provider: str) -> None:
    """A limit of 0 allows it as well, because it costs nothing."""
    pricing = PricingSettings.from_environment(wanted=provider)
    run = a_run(max_cost=0)

    check_cap(run, estimate_of(run, pricing))

    assert estimate_of(run, pricing).cost_usd == 0.0


def test_a_run_over_its_limit_is_rejected() -> None:
    """The error names the field, the estimate, the limit and what to change."""
    run = a_run(max_cost=0.01)
    with pytest.raises(RequestInvalidError) as caught:
        check_cap(run, estimate_of(run, REPLICATE))

    ((field, message),) = caught.value.problems
    assert field == MAX_COST_FIELD == "audio_params.max_cost"
    assert dollars(COST_USD) in message
    assert "$0.01 " in message
    for alternative in (
        "raise max_cost",
        "fewer or shorter scenes",
        'on_max_cost to "error_strategy"',
    ):
        assert alternative in message


@pytest.mark.parametrize(
    "params",
    [
        {"max_cost": COST_USD},
        {"max_cost": None},
        {"max_cost": 0, "on_max_cost": OnMaxCost.ERROR_STRATEGY},
    ],
)
def test_a_run_within_its_limit_or_with_the_error_strategy_is_accepted(
    params: dict[str, Any],
) -> None:
    """An estimate equal to the limit is within it."""
    run = a_run(**params)

    check_cap(run, estimate_of(run, REPLICATE))


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "$0.00"),
        (1.5, "$1.50"),
        (1.996, "$2.00"),
        (1.0001, "$1.01"),
        (12, "$12.00"),
        (1234.5, "$1234.50"),
        (0.99996, "$1.00"),
        (0.29999, "$0.30"),
        (0.1 + 0.2, "$0.30"),
        (0.056, "$0.056"),
        (0.0196, "$0.0196"),
        (0.01681, "$0.0169"),
        (1e-6, "$0.0001"),
    ],
)
def test_dollars_has_one_format(usd: float, text: str) -> None:
    """Cents from one dollar on, four decimals below; rounded up, so that no bill exceeds it."""
    assert dollars(usd) == text
