"""Limits how fast one API key starts predictions, for all lanes together.

Starts wait in a fair queue. There is an interval between two starts; at most N predictions run at
once; a pause that the provider asks for holds for every lane. From each throttled start the
limiter learns the interval that would have been long enough; after ten starts in a row it tries
a shorter one. A key with six starts per minute is learnt at the second start.

A permit is acquired before a scene is claimed and consumed when its prediction is submitted, so
that no claim expires in the queue. An unused permit can be consumed by any lane until it expires.

While the provider rejects all requests (no key, no credit), one lane at a time probes it.

Units: seconds. I/O: the clock.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from shared.clock import Clock
from shared.errors import ProviderBusyError, ProviderPausedError
from shared.processing.wait import completes_first

_PERMIT_S = 15.0  # life of a permit: the claim is created in between
_INTERVAL_S_MAX = 60.0
_SLOWER, _FASTER = 2.0, 0.9
_MARGIN = 1.05  # response times vary
_CALM_STARTS = 10  # starts in a row before a shorter interval is tried
_ERROR_PAUSE_S_MAX = 30.0
PAUSE_S_MAX = 300.0  # a longer Retry-After is checked again by then: one response stops every lane
_FULL_WAIT_S = 1.0  # between checks whether a prediction expired


@dataclass(slots=True)
class _Refusal:
    """The provider rejects all requests."""

    reason: str
    for_credit: bool  #: only an accepted start ends it; a refused key ends with any response
    next_probe: float  #: when the next probe is due


class RateLimiter:
    """The state that all users of one key share. For one event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        starts_per_s: float,
        in_flight_max: int,
        forget_s: float,
        probe_s: float,
    ) -> None:
        self._clock = clock
        self._interval_s_min = 1 / starts_per_s
        self._interval_s = self._interval_s_min
        self._in_flight_max = in_flight_max
        self._forget_s = forget_s  # after this time a prediction without a report has ended
        self._probe_s = probe_s
        self._queue = asyncio.Lock()  # asyncio's lock is fair
        self._changed = asyncio.Event()
        self._next_start = 0.0
        self._paused_until = 0.0
        self._last_accepted: float | None = None
        self._calm_starts = 0
        self._errors = 0
        self._permits: deque[float] = deque()  # expiry times
        self._in_flight: dict[str, float] = {}  # expiry times
        self._refusal: _Refusal | None = None

    @property
    def refusal(self) -> str | None:
        """Return why all requests are rejected; None if they are not."""
        return self._refusal.reason if self._refusal else None

    async def acquire(self, *, within_s: float) -> None:
        """Wait in the queue for a permit to start one prediction.

        Raises:
            ProviderPausedError: all requests are rejected, and no probe is due.
            ProviderBusyError: no permit within `within_s`.
        """
        self._raise_if_refused()
        deadline = self._clock.monotonic() + within_s
        if self._queue.locked():
            in_queue = asyncio.ensure_future(self._queue.acquire())
            try:
                if not await completes_first(in_queue, self._clock.sleep(within_s)):
                    raise self._busy(within_s)
            except asyncio.CancelledError:
                if in_queue.done() and not in_queue.cancelled():
                    self._queue.release()  # acquired in the moment of the cancellation
                raise
        else:
            await self._queue.acquire()
        try:
            while (wait_s := self._wait_s()) > 0:
                self._raise_if_refused()
                if self._clock.monotonic() + wait_s > deadline:
                    raise self._busy(wait_s)
                self._changed.clear()
                await completes_first(self._changed.wait(), self._clock.sleep(wait_s))
            self._raise_if_refused()
            now = self._clock.monotonic()
            self._next_start = now + self._interval_s
            self._permits.append(now + _PERMIT_S)
            if self._refusal is not None:
                self._refusal.next_probe = now + self._probe_s  # this start is the probe
        finally:
            self._queue.release()

    def consume_permit(self) -> bool:
        """Consume a permit; return False if there is none."""
        self._expire()
        if not self._permits:
            return False
        self._permits.popleft()
        return True

    def add_in_flight(self, prediction_id: str) -> None:
        """Count a running prediction."""
        self._in_flight[prediction_id] = self._clock.monotonic() + self._forget_s

    def remove_in_flight(self, prediction_id: str) -> None:
        """Stop counting a prediction that ended or that another process collects."""
        if self._in_flight.pop(prediction_id, None) is not None:
            self._changed.set()

    def record_accepted(self) -> None:
        """Record an accepted start: it ends every refusal and error pause."""
        self._refusal = None
        self._errors = 0
        self._last_accepted = self._clock.monotonic()
        self._calm_starts += 1
        if self._calm_starts >= _CALM_STARTS:
            self._calm_starts = 0
            self._interval_s = max(self._interval_s_min, self._interval_s * _FASTER)
        self._changed.set()

    def record_throttled(self, retry_after_s: float | None) -> float:
        """Record a start that came too early; return the pause for all lanes."""
        self._calm_starts = 0
        if retry_after_s is None:
            longer_s = wait_s = self._interval_s * _SLOWER
        else:
            before = self._last_accepted
            since_s = self._clock.monotonic() - before if before is not None else 0.0
            longer_s, wait_s = (since_s + retry_after_s) * _MARGIN, retry_after_s
        self._interval_s = max(self._interval_s, min(_INTERVAL_S_MAX, longer_s))
        return self.pause(wait_s)

    def record_error(self, retry_after_s: float | None = None) -> float:
        """Record that the provider is down; return the pause for all lanes, which grows."""
        if self._clock.monotonic() >= self._paused_until:  # a hundred lanes see the same error
            self._errors += 1
        backoff_s = min(_ERROR_PAUSE_S_MAX, 2.0 ** min(max(0, self._errors - 1), 10))
        return self.pause(max(backoff_s, retry_after_s or 0.0))

    def pause(self, wait_s: float) -> float:
        """Start nothing for `wait_s`, at most `PAUSE_S_MAX`; return the pause."""
        wait_s = min(wait_s, PAUSE_S_MAX)
        self._paused_until = max(self._paused_until, self._clock.monotonic() + wait_s)
        return wait_s

    def record_response(self) -> None:
        """Record that the provider responds and accepts the key."""
        self._errors = 0
        if self._refusal is not None and not self._refusal.for_credit:
            self._refusal = None
            self._changed.set()

    def record_refusal(self, reason: str, *, for_credit: bool = False) -> ProviderPausedError:
        """Record that all requests are rejected until a person acts; return the error to raise."""
        next_probe = self._clock.monotonic() + self._probe_s
        self._refusal = _Refusal(reason, for_credit, next_probe)
        self._changed.set()
        return ProviderPausedError(reason, retry_after_s=self._probe_s)

    def take_probe(self) -> bool:
        """Return whether a probe of the key is due; if so, the caller must make it."""
        refusal, now = self._refusal, self._clock.monotonic()
        if refusal is None or refusal.for_credit or now < refusal.next_probe:
            return False
        refusal.next_probe = now + self._probe_s
        return True

    def _raise_if_refused(self) -> None:
        """Raise while all requests are rejected and no probe is due."""
        if self._refusal is None:
            return
        left_s = self._refusal.next_probe - self._clock.monotonic()
        if left_s > 0:
            raise ProviderPausedError(self._refusal.reason, retry_after_s=left_s)

    def _wait_s(self) -> float:
        """Return the seconds until the next start is allowed; 0.0 for now."""
        self._expire()
        now = self._clock.monotonic()
        wait_s = max(self._next_start, self._paused_until) - now
        if wait_s > 0:
            return wait_s
        full = len(self._in_flight) + len(self._permits) >= self._in_flight_max
        return _FULL_WAIT_S if full else 0.0

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._permits and self._permits[0] <= now:
            self._permits.popleft()
        for name in [name for name, until in self._in_flight.items() if until <= now]:
            del self._in_flight[name]

    def _busy(self, wait_s: float) -> ProviderBusyError:
        return ProviderBusyError("no permit from Replicate's rate limiter", retry_after_s=wait_s)
