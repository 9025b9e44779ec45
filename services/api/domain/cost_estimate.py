"""Estimates what a run costs and checks the estimate against the run's cost limit.

The estimate uses the upper end (`shared/cost_estimate.py`) and assumes neither cache hits nor
retries; the generator enforces the limit while it spends. The estimate is stored with its run, so
a repeated request returns the same one and the status can compare it with the actual cost.

Units: US dollars, seconds. Pure.
"""

from services.api.domain.run_spec import RequestInvalidError, RunSpec
from shared.contract.params import OnMaxCost, Value
from shared.cost_estimate import dollars, fits_budget
from shared.pricing import PricingSettings

__all__ = ["MAX_COST_FIELD", "RunEstimate", "check_cap", "dollars", "estimate_of", "is_over_cap"]
MAX_COST_FIELD = "audio_params.max_cost"


class RunEstimate(Value):
    """Upper bound of what a run takes; stored as JSON with the run."""

    cost_usd: float
    music_s: int
    seconds: float
    provider: str


def estimate_of(spec: RunSpec, pricing: PricingSettings) -> RunEstimate:
    """Return the estimate of a run with its provider; kept scenes cost nothing."""
    provider = spec.provider or pricing.provider
    generated = spec.to_generate
    estimate = pricing.estimate(
        [spec.scenes[index].duration_s for index in generated],
        provider=provider,
        has_style=spec.params.style_audio is not None and 0 in generated,
        continues=0 not in generated,
    )
    return RunEstimate(
        cost_usd=estimate.cost_usd,
        music_s=estimate.music_s,
        seconds=round(estimate.seconds, 1),
        provider=provider,
    )


def is_over_cap(spec: RunSpec, estimate: RunEstimate) -> bool:
    """Return whether the estimate exceeds the run's cost limit."""
    return not fits_budget(spec.params.max_cost, spent_usd=0.0, next_usd=estimate.cost_usd)


def check_cap(spec: RunSpec, estimate: RunEstimate) -> None:
    """Raise if the estimate exceeds the limit and the run rejects that.

    Raises:
        RequestInvalidError: the run would exceed its limit; `on_max_cost` is "refuse".
    """
    if is_over_cap(spec, estimate) and spec.params.on_max_cost is OnMaxCost.REFUSE:
        message = (
            f"the estimate is {dollars(estimate.cost_usd)} for {estimate.music_s} s of music by "
            f"{estimate.provider}, the limit is {dollars(spec.params.max_cost or 0.0)} "
            "(AUDIO_MAX_COST if the request has none): raise max_cost, request fewer or shorter "
            'scenes, or set on_max_cost to "error_strategy"'
        )
        raise RequestInvalidError([(MAX_COST_FIELD, message)])
