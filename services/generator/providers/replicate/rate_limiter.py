"""Limiter: how fast one key may start predictions, for all lanes together.

Starts stand in line, first come first served. Between two of them lies an interval; at most N
predictions are under way; a pause that the provider asked for holds for everyone. From
a refusal the interval is learnt that would have been long enough; a shorter one is tried after
every ten starts. So a key with six starts a minute is found out at the second start.

A turn is had before a scene is claimed and used when its prediction is submitted, so that no
claim grows old in the line. A turn that nobody used is anybody's for a moment, then lost.

Who refuses everyone (no key, no credit) is asked again now and then, by one lane alone.

Units: seconds. I/O: the clock.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from shared.clock import Clock
from shared.errors import ProviderBusyError, ProviderPausedError
from shared.processing.wait import completes_first

_TURN_S = 15.0  # from having a turn to using it: a claim is made in between
_INTERVAL_S_MAX = 60.0
_SLOWER, _FASTER = 2.0, 0.9
_MARGIN = 1.05  # answers take their time, and not the same each time
_CALM_STARTS = 10  # so many in a row before a shorter interval is tried
_TROUBLE_S_MAX = 30.0
_ROOM_S = 1.0  # between looks at whether a forgotten prediction made room


@dataclass(slots=True)
class _Refusal:
    reason: str
    for_money: bool  #: only a start tells whether it is over; of a key, any answer does
    ask_at: float  #: when the next question is due


class Limiter:
    """Everything that one key must share. For one loop."""

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
        self._least_s = 1 / starts_per_s
        self._interval_s = self._least_s
        self._in_flight_max = in_flight_max
        self._forget_s = forget_s  # a prediction nobody reported on is over by then
        self._probe_s = probe_s
        self._line = asyncio.Lock()  # asyncio's is fair
        self._changed = asyncio.Event()
        self._next_start = 0.0
        self._paused_until = 0.0
        self._last_accepted: float | None = None
        self._calm = 0
        self._troubles = 0
        self._turns: deque[float] = deque()  # when each ends
        self._in_flight: dict[str, float] = {}  # when each is forgotten
        self._refusal: _Refusal | None = None

    @property
    def refusal(self) -> str | None:
        """Why everyone is refused; None: nobody is."""
        return self._refusal.reason if self._refusal else None

    @property
    def wants_money(self) -> bool:
        """Whether it is credit that is missing."""
        return self._refusal is not None and self._refusal.for_money

    @property
    def interval_s(self) -> float:
        """Seconds between two starts, as learnt so far."""
        return self._interval_s

    async def turn(self, *, within_s: float) -> None:
        """Stand in line; returns with the right to start one prediction.

        Raises:
            ProviderPausedError: everyone is refused, and it is too early to ask again.
            ProviderBusyError: no turn came in time.
        """
        self._stand_back()
        deadline = self._clock.monotonic() + within_s
        if self._line.locked():
            in_line = asyncio.ensure_future(self._line.acquire())
            try:
                if not await completes_first(in_line, self._clock.sleep(within_s)):
                    raise self._busy(within_s)
            except asyncio.CancelledError:
                if in_line.done() and not in_line.cancelled():
                    self._line.release()  # it was had in the moment it was given up
                raise
        else:
            await self._line.acquire()
        try:
            while (wait_s := self._wait_s()) > 0:
                self._stand_back()
                if self._clock.monotonic() + wait_s > deadline:
                    raise self._busy(wait_s)
                self._changed.clear()
                await completes_first(self._changed.wait(), self._clock.sleep(wait_s))
            self._stand_back()
            now = self._clock.monotonic()
            self._next_start = now + self._interval_s
            self._turns.append(now + _TURN_S)
            if self._refusal is not None:
                self._refusal.ask_at = now + self._probe_s  # this one asks, the others wait on
        finally:
            self._line.release()

    def use_turn(self) -> bool:
        """Take a turn that was had; False if there is none."""
        self._forget()
        if not self._turns:
            return False
        self._turns.popleft()
        return True

    def started(self, prediction_id: str) -> None:
        """A prediction is under way."""
        self._in_flight[prediction_id] = self._clock.monotonic() + self._forget_s

    def ended(self, prediction_id: str) -> None:
        """It is over, or nobody's concern any more."""
        if self._in_flight.pop(prediction_id, None) is not None:
            self._changed.set()

    def accepted(self) -> None:
        """A start was accepted: nothing stands in the way."""
        self._refusal = None
        self._troubles = 0
        self._last_accepted = self._clock.monotonic()
        self._calm += 1
        if self._calm >= _CALM_STARTS:
            self._calm = 0
            self._interval_s = max(self._least_s, self._interval_s * _FASTER)
        self._changed.set()

    def throttled(self, asked_s: float | None) -> float:
        """A start came too early: everyone waits; for how long."""
        self._calm = 0
        if asked_s is None:
            longer_s = wait_s = self._interval_s * _SLOWER
        else:
            before = self._last_accepted
            since_s = self._clock.monotonic() - before if before is not None else 0.0
            longer_s, wait_s = (since_s + asked_s) * _MARGIN, asked_s
        self._interval_s = max(self._interval_s, min(_INTERVAL_S_MAX, longer_s))
        return self.pause(wait_s)

    def troubled(self, asked_s: float | None = None) -> float:
        """The provider is down or out of order: everyone waits, longer each time; how long."""
        if self._clock.monotonic() >= self._paused_until:  # a hundred lanes see one trouble
            self._troubles += 1
        grown_s = min(_TROUBLE_S_MAX, 2.0 ** min(max(0, self._troubles - 1), 10))
        return self.pause(max(grown_s, asked_s or 0.0))

    def pause(self, wait_s: float) -> float:
        """Nobody starts before so long; the same number."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + wait_s)
        return wait_s

    def answered(self) -> None:
        """The provider answers, and knows the key."""
        self._troubles = 0
        if self._refusal is not None and not self._refusal.for_money:
            self._refusal = None
            self._changed.set()

    def refused(self, reason: str, *, for_money: bool = False) -> ProviderPausedError:
        """Nobody is served until a person acts; what to raise."""
        ask_at = self._clock.monotonic() + self._probe_s
        self._refusal = _Refusal(reason, for_money, ask_at)
        self._changed.set()
        return ProviderPausedError(reason, retry_after_s=self._probe_s)

    def question_due(self) -> bool:
        """Whether it is time to ask for the key again; whoever is told so must."""
        refusal, now = self._refusal, self._clock.monotonic()
        if refusal is None or refusal.for_money or now < refusal.ask_at:
            return False
        refusal.ask_at = now + self._probe_s
        return True

    def _stand_back(self) -> None:
        """Raise while everyone is refused and no question is due."""
        if self._refusal is None:
            return
        left_s = self._refusal.ask_at - self._clock.monotonic()
        if left_s > 0:
            raise ProviderPausedError(self._refusal.reason, retry_after_s=left_s)

    def _wait_s(self) -> float:
        """Until the next start may be; 0.0: now."""
        self._forget()
        now = self._clock.monotonic()
        wait_s = max(self._next_start, self._paused_until) - now
        if wait_s > 0:
            return wait_s
        full = len(self._in_flight) + len(self._turns) >= self._in_flight_max
        return _ROOM_S if full else 0.0

    def _forget(self) -> None:
        now = self._clock.monotonic()
        while self._turns and self._turns[0] <= now:
            self._turns.popleft()
        for name in [name for name, until in self._in_flight.items() if until <= now]:
            del self._in_flight[name]

    def _busy(self, wait_s: float) -> ProviderBusyError:
        return ProviderBusyError("no turn at Replicate came in time", retry_after_s=wait_s)
