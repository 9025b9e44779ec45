"""A clock that stands still until it is told to go on."""

import asyncio
from datetime import UTC, datetime, timedelta


class FakeClock:
    """A `Clock` whose time moves by `jump` alone, and by sleeping, which takes no real time."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        """The moment, UTC."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self.elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Move the time on at once, and let others run."""
        self.slept.append(seconds)
        self.jump(seconds)
        await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Move the time on, as if the process had been frozen."""
        self.elapsed_s += seconds
