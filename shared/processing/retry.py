"""Retry: how long to wait before the next try.

Exponential with full jitter below the cap; what the other side asked for is the floor. Pure:
whoever retries owns the loop, the clock and the limit.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempt to delay. `attempts_max` counts tries, the first included."""

    first_s: float = 1.0
    max_s: float = 60.0
    attempts_max: int = 8

    def delay_s(
        self, attempt: int, *, asked_s: float | None = None, chance: random.Random
    ) -> float:
        """Seconds to wait after try `attempt` (from 1) failed.

        A wait the other side asked for is honoured and only ever lengthened, so that a
        thousand lanes told the same do not come back in the same instant.
        """
        cap = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        jitter = chance.uniform(cap / 2, cap)
        return jitter if asked_s is None else asked_s + chance.uniform(0, cap / 4)
