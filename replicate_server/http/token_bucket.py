"""Limits: how often one may ask, as Replicate limits it.

Units: seconds, on the clock of whoever asks. Pure.
"""

import math


class TokenBucket:
    """Holds tokens, `burst` at most, and gains `per_min` of them a minute."""

    def __init__(self, *, per_min: float, burst: int | None) -> None:
        self._per_s = per_min / 60
        self._burst = burst or max(1, math.ceil(per_min))
        self._tokens = float(self._burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> float | None:
        """None when a token was there, and is gone now; else seconds until there is one."""
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
        """What a successful answer says of the limit."""
        full_s = (self._burst - self._tokens) / self._per_s
        return {
            "ratelimit-remaining": str(int(self._tokens)),
            "ratelimit-reset": str(max(1, math.ceil(full_s))),
        }
