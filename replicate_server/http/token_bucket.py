"""A token bucket, as Replicate limits request rates.

Units: seconds, on the caller's clock. Pure.
"""

import math


class TokenBucket:
    """Holds up to `burst` tokens and gains `per_min` a minute."""

    def __init__(self, *, per_min: float, burst: int | None) -> None:
        self._per_s = per_min / 60
        self._burst = burst or max(1, math.ceil(per_min))
        self._tokens = float(self._burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> float | None:
        """Take a token; return the seconds to wait if there is none."""
        if self._at_s is not None:
            gained = max(0.0, now_s - self._at_s) * self._per_s
            self._tokens = min(float(self._burst), self._tokens + gained)
        self._at_s = now_s
        if self._tokens < 1 - 1e-9:
            return (1 - self._tokens) / self._per_s
        self._tokens -= 1
        return None

    @property
    def headers(self) -> dict[str, str]:
        """The rate limit headers of a successful response."""
        full_s = (self._burst - self._tokens) / self._per_s
        return {
            "ratelimit-remaining": str(int(self._tokens)),
            "ratelimit-reset": str(max(1, math.ceil(full_s))),
        }
