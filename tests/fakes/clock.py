"""A clock that the test advances."""

import asyncio
from datetime import UTC, datetime, timedelta


class FakeClock:
    """A `Clock` that only `jump` and `sleep` advance; sleeping takes no real time."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        """Return the seconds since this clock was created."""
        return self.elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Advance the time at once, and let other tasks run."""
        self.slept.append(seconds)
        self.jump(seconds)
        await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Advance the time, as if the process had been frozen."""
        self.elapsed_s += seconds
