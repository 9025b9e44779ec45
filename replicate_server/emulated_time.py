"""The emulator's clock: the machine's, or one that a test moves.

With the machine's clock the emulator waits in real time. With a test's clock it follows: it never
moves that clock, it polls it, and responses wait for everything that is due (`settle`). A test
whose clock jumps therefore sees exactly what it would have seen after that time.

Units: seconds; monotonic unless they are datetimes. I/O: the clock.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from shared.clock import Clock, SystemClock

_POLL_S = 0.01  # of a clock that is followed
_WAIT_S_MAX = 3600.0
_SETTLE_S_MAX = 120.0  # of real time, for composing what is due


class EmulatedTime:
    """A clock and ways to wait for it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.follows = clock is not None

    def monotonic(self) -> float:
        """Return the seconds since a fixed point."""
        return self._clock.monotonic()

    def now(self) -> datetime:
        """Return the current time, UTC."""
        return self._clock.now()

    def datetime_at(self, at_s: float) -> datetime:
        """Return the datetime of a monotonic time."""
        return self.now() + timedelta(seconds=at_s - self.monotonic())

    async def sleep_until(self, at_s: float) -> None:
        """Wait until the clock reaches `at_s`; forever if that is infinite."""
        while (remaining_s := at_s - self.monotonic()) > 0:
            if self.follows:
                await asyncio.sleep(_POLL_S)
            else:
                await self._clock.sleep(min(remaining_s, _WAIT_S_MAX))

    async def settle(self, is_due: Callable[[], bool]) -> None:
        """Wait until nothing is due; return at once with the machine's clock."""
        if not self.follows:
            return
        async with asyncio.timeout(_SETTLE_S_MAX):
            while is_due():  # noqa: ASYNC110 - the test moves the clock and sets no event
                await asyncio.sleep(_POLL_S)
