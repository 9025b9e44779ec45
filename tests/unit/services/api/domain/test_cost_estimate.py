"""What is said of the price before a run begins, and which runs may begin at it."""

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


def asked(*, lengths: tuple[float, ...] = (1.7, 2.3), **params: Any) -> RunSpec:
    """A run."""
    return RunSpec(
        job_id="j",
        scenes=tuple(Scene(duration_s=length) for length in lengths),
        video=None,
        params=AudioParams.model_validate(params),
    )


def test_the_estimate_is_that_of_the_provider_that_makes_the_music() -> None:
    """Its window, its price."""
    told = estimate_of(asked(), REPLICATE)

    assert (told.provider, told.music_s) == ("replicate", 7)
    assert told.cost_usd == pytest.approx(COST_USD)
    assert told.seconds == 7 * 2 + 3 * 2


def test_a_style_sample_gives_the_first_scene_a_window_too() -> None:
    """Its own, longer one; it is paid for like the others."""
    assert estimate_of(asked(style_audio=STYLE), REPLICATE).music_s == 7 + 5


def test_another_price_is_another_estimate() -> None:
    """SEGUE_REPLICATE_USD_PER_S."""
    dear = PricingSettings(wanted="replicate", replicate=ReplicateAccount(usd_per_s=1))

    assert estimate_of(asked(lengths=(1,)), dear).cost_usd == pytest.approx(2.0)


@pytest.mark.parametrize("provider", ["synth", "silence"])
def test_what_is_made_here_begins_under_any_cap(provider: str) -> None:
    """Also under one of nothing."""
    wanted = PricingSettings.from_environment(wanted=provider)
    run = asked(max_cost=0)

    check_cap(run, estimate_of(run, wanted))

    assert estimate_of(run, wanted).cost_usd == 0.0


def test_a_run_over_its_cap_is_refused_with_estimate_cap_and_ways_out() -> None:
    """By the field that a client can change."""
    run = asked(max_cost=0.01)
    with pytest.raises(RequestInvalidError) as caught:
        check_cap(run, estimate_of(run, REPLICATE))

    ((field, told),) = caught.value.problems
    assert field == MAX_COST_FIELD == "audio_params.max_cost"
    assert dollars(COST_USD) in told
    assert "$0.01 " in told
    for way_out in ("raise max_cost", "fewer or shorter scenes", 'on_max_cost to "error_strategy"'):
        assert way_out in told


@pytest.mark.parametrize(
    "params",
    [
        {"max_cost": COST_USD},
        {"max_cost": None},
        {"max_cost": 0, "on_max_cost": OnMaxCost.ERROR_STRATEGY},
    ],
)
def test_a_run_within_its_cap_or_that_ends_with_the_error_strategy_begins(
    params: dict[str, Any],
) -> None:
    """What is exactly the cap is within it."""
    run = asked(**params)

    check_cap(run, estimate_of(run, REPLICATE))


@pytest.mark.parametrize(
    ("usd", "told"),
    [(0, "$0.00"), (1.5, "$1.50"), (0.0196, "$0.0196"), (12, "$12.00"), (1e-6, "$0.000001")],
)
def test_small_sums_keep_the_digits_that_tell_them_apart(usd: float, told: str) -> None:
    """A scene costs cents, and a cap may be one."""
    assert dollars(usd) == told
