"""Costs: what a run will cost and how long it will take, before anything is spent.

Replicate charges for the seconds that its hardware works, not for the seconds of music; how
many that are is known as a rough factor alone. The estimate takes the upper end of it: a cap
that is hit early is better than a bill that comes late.

Units: US dollars, seconds. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: an A100 with 80 GB, which the model's makers recommend (replicate.com/pricing)
REPLICATE_USD_PER_S = 0.0014
#: seconds of work per second of music: 1 to 2 on a warm machine, the upper end
WORK_S_PER_MUSIC_S = 2.0
#: seconds between the end of one scene and the start of the next: polling, fetching, storing
OVERHEAD_S = 3.0
#: seconds per second of music that is made here: 0.1 when idle, 0.2 when all cores are busy
SYNTH_S_PER_MUSIC_S = 0.2
_USD_PER_S = {"replicate": REPLICATE_USD_PER_S, "fake-replicate": REPLICATE_USD_PER_S}
_DIGITS = 6  # a millionth of a dollar


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will take, at the upper end of what is known."""

    music_s: int  #: seconds of music asked for, windows included
    work_s: float  #: seconds of work that are charged
    cost_usd: float  #: 0.0 where the music is made here
    seconds: float  #: from the first scene to the last, one after the other, nothing cold


def estimate(
    durations_s: Sequence[float],
    *,
    window_s: int,
    provider: str,
    usd_per_s: float | None = None,
    first_window_s: int = 0,
) -> Estimate:
    """The estimate for scenes of these lengths; `usd_per_s` None: the provider's usual price.

    The first scene has a window of its own, `first_window_s`, where it continues a style sample.
    """
    if usd_per_s is None:
        usd_per_s = _USD_PER_S.get(provider, 0.0)
    windows = (window_s if index else first_window_s for index in range(len(durations_s)))
    music_s = sum(requested_s(d, window_s=w) for d, w in zip(durations_s, windows, strict=True))
    work_s = music_s * WORK_S_PER_MUSIC_S if provider in _USD_PER_S else 0.0
    here_s = music_s * SYNTH_S_PER_MUSIC_S if provider == "synth" else 0.0
    return Estimate(
        music_s=music_s,
        work_s=work_s,
        cost_usd=round(work_s * usd_per_s, _DIGITS),
        seconds=work_s + OVERHEAD_S * len(durations_s) if provider in _USD_PER_S else here_s,
    )


def requested_s(duration_s: float, *, window_s: int) -> int:
    """Whole seconds that a scene is asked for: its own, rounded up, and the window."""
    return math.ceil(duration_s) + window_s


def cost_usd(work_s: float | None, *, usd_per_s: float) -> float | None:
    """What so many seconds of work cost; None if nobody counted them."""
    return None if work_s is None else round(work_s * usd_per_s, _DIGITS)


def fits_budget(cap_usd: float | None, *, spent_usd: float, next_usd: float) -> bool:
    """Whether the next clip may still be paid for; a cap of None is none."""
    return cap_usd is None or spent_usd + next_usd <= cap_usd + 10**-_DIGITS
