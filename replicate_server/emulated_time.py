"""EmulatedTime: the fake's time.

With the machine's clock, it simply waits. With a clock of a test's, it follows: it never moves
that clock, it looks at it, and answers wait for whatever is due by it (`settle`), so that a test
whose clock jumps sees what it would have seen after so long, and no more.

Units: seconds; monotonic unless they are moments. I/O: the clock.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from shared.clock import Clock, SystemClock

_LOOK_S = 0.01  # between two looks at a clock that is followed
_WAIT_S_MAX = 3600.0
_SETTLE_S_MAX = 120.0  # of real time, for composing what is due


class EmulatedTime:
    """The clock, and how to wait by it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.follows = clock is not None

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return self._clock.monotonic()

    def now(self) -> datetime:
        """The moment, UTC."""
        return self._clock.now()

    def moment(self, at_s: float) -> datetime:
        """The moment of a monotonic time."""
        return self.now() + timedelta(seconds=at_s - self.monotonic())

    async def until(self, at_s: float) -> None:
        """Wait until the clock says `at_s`; for ever, if that is infinite."""
        while (left := at_s - self.monotonic()) > 0:
            if self.follows:
                await asyncio.sleep(_LOOK_S)
            else:
                await self._clock.sleep(min(left, _WAIT_S_MAX))

    async def settle(self, due: Callable[[], bool]) -> None:
        """Wait, where a clock is followed, until nothing is due any more."""
        if not self.follows:
            return
        async with asyncio.timeout(_SETTLE_S_MAX):
            while due():  # noqa: ASYNC110 - the clock is somebody else's and wakes nobody
                await asyncio.sleep(_LOOK_S)
