"""Estimates cost and duration of a run before it starts.

Replicate charges for the seconds of its hardware, not for the seconds of music; their ratio is
known only roughly, 1 to 2 on a warm machine. The estimate uses the upper end: reaching a cost limit
early is better than an unexpected bill. A bill is between half of the estimate and the estimate,
unless a machine loads its weights first or an attempt fails and is repeated.

Separate from `pricing`, which reads the environment, so that import-linter keeps the arithmetic
pure. Units: US dollars, seconds. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

from shared.music_providers import facts_of

#: an A100 with 80 GB, as the model's authors recommend (replicate.com/pricing)
REPLICATE_USD_PER_S = 0.0014
#: seconds of hardware per second of music: 1 to 2 on a warm machine, the upper end
WORK_S_PER_MUSIC_S = 2.0
#: seconds between the end of a scene and the start of the next: polling, download, storage
OVERHEAD_S = 3.0
_DIGITS = 6  # a millionth of a dollar
_CENT, _SMALL = Decimal("0.01"), Decimal("0.0001")
#: cost limit of a run if nothing else is set, US dollars: about an hour of music
MAX_COST_USD = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Cost and duration of a run, at the upper end."""

    music_s: int  #: seconds of music requested, windows included
    work_s: float  #: seconds of hardware that are charged
    cost_usd: float  #: 0.0 for music of a free provider
    seconds: float  #: all scenes in sequence, on a warm machine


def estimate(
    durations_s: Sequence[float],
    *,
    window_s: int,
    provider: str,
    usd_per_s: float | None = None,
    first_window_s: int = 0,
) -> Estimate:
    """Return the estimate for scenes of these lengths.

    `usd_per_s` None: the usual price. `first_window_s`: the window of the first scene, if it
    continues a style sample.

    Raises:
        ValueError: the provider is unknown, and so is its cost.
    """
    facts = facts_of(provider)
    price = REPLICATE_USD_PER_S if usd_per_s is None else usd_per_s
    windows = (window_s if index else first_window_s for index in range(len(durations_s)))
    music_s = sum(requested_s(d, window_s=w) for d, w in zip(durations_s, windows, strict=True))
    work_s = music_s * WORK_S_PER_MUSIC_S if facts.is_paid else 0.0
    remote_s = work_s + OVERHEAD_S * len(durations_s)
    return Estimate(
        music_s=music_s,
        work_s=work_s,
        cost_usd=round(work_s * price, _DIGITS),
        seconds=remote_s if facts.is_paid else music_s * facts.local_s_per_music_s,
    )


def requested_s(duration_s: float, *, window_s: int) -> int:
    """Return the whole seconds to request for a scene: its length, rounded up, and the window."""
    return math.ceil(duration_s) + window_s


def cost_usd(work_s: float | None, *, usd_per_s: float) -> float | None:
    """Return the cost of `work_s`; None if unknown."""
    return None if work_s is None else round(work_s * usd_per_s, _DIGITS)


def dollars(usd: float) -> str:
    """Return an amount as text: whole cents from one dollar on, four decimals at most below.

    It is rounded up, so that no bill exceeds what was shown: $1.996 is "$2.00".
    """
    exact = Decimal(str(round(usd, _DIGITS)))
    cents = exact.quantize(_CENT, rounding=ROUND_UP)
    if abs(exact) >= 1 or cents == exact:
        return f"${cents}"
    small = exact.quantize(_SMALL, rounding=ROUND_UP)
    return f"${small.normalize():f}" if small != small.quantize(_CENT) else f"${cents}"


def fits_budget(cap_usd: float | None, *, spent_usd: float, next_usd: float) -> bool:
    """Return whether the next clip fits the cost limit; None: no limit."""
    return cap_usd is None or spent_usd + next_usd <= cap_usd + 10**-_DIGITS
