"""Clock port: services take time from it, so tests need not wait.

I/O: only `SystemClock` reads the system clock.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Returns the time and waits."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since a fixed point; never decreases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...


class SystemClock:
    """The system clock."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the only reader

    def monotonic(self) -> float:
        """Return seconds since a fixed point; never decreases."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)
