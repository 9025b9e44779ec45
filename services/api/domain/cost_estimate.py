"""Costing: what a run will take, said before it begins, and whether it may begin at that price.

The estimate takes the upper end (`shared/cost_estimate.py`) and counts on no cache, but on no
second try either: the generator watches the cap while it spends. It is kept with its run: whoever
asks again is told the same, and the status can compare it with what was spent.
"""

from services.api.domain.run_spec import RequestInvalidError, RunSpec
from services.api.http.schemas import CostEstimate
from shared.contract.params import OnMaxCost
from shared.cost_estimate import fits_budget
from shared.pricing import PricingSettings

MAX_COST_FIELD = "audio_params.max_cost"


def estimate_of(asked: RunSpec, pricing: PricingSettings) -> CostEstimate:
    """What `asked` takes at most; what it keeps costs nothing."""
    made = asked.to_generate
    told = pricing.estimate(
        [asked.scenes[index].duration_s for index in made],
        has_style=asked.params.style_audio is not None and 0 in made,
        continues=0 not in made,
    )
    return CostEstimate(
        cost_usd=told.cost_usd,
        music_s=told.music_s,
        seconds=round(told.seconds, 1),
        provider=pricing.provider,
    )


def is_over_cap(asked: RunSpec, estimate: CostEstimate) -> bool:
    """Whether the run may cost more than it is given."""
    return not fits_budget(asked.params.max_cost, spent_usd=0.0, next_usd=estimate.cost_usd)


def check_cap(asked: RunSpec, estimate: CostEstimate) -> None:
    """Return if `asked` may begin.

    Raises:
        RequestInvalidError: it would cost more than its cap, and such a run is to be refused.
    """
    if is_over_cap(asked, estimate) and asked.params.on_max_cost is OnMaxCost.REFUSE:
        told = (
            f"the estimate is {dollars(estimate.cost_usd)} for {estimate.music_s} s of music by "
            f"{estimate.provider}, the cap {dollars(asked.params.max_cost or 0.0)} (AUDIO_MAX_COST "
            "if the request names none): raise max_cost, ask for fewer or shorter scenes, or set "
            'on_max_cost to "error_strategy"'
        )
        raise RequestInvalidError([(MAX_COST_FIELD, told)])


def dollars(usd: float) -> str:
    """US dollars as people read them: two digits, or as many as a small sum needs."""
    cents = f"{usd:.2f}"
    exact = f"{usd:.6f}".rstrip("0")
    return f"${cents if len(exact) <= len(cents) else exact}"
