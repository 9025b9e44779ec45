"""Slots: so much at once, and how much of it is taken; whoever comes late waits in order.

I/O: none, but it waits.
"""

import asyncio
from types import TracebackType


class Slots:
    """Bounds what runs at once: `async with slots:` around the work."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._free = asyncio.Semaphore(most)

    async def __aenter__(self) -> None:
        """Wait for a slot, and take it."""
        await self._free.acquire()
        self._taken += 1

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._taken -= 1
        self._free.release()

    def figures(self) -> dict[str, int]:
        """How many there are, and how many are taken, for `readyz`."""
        return {"slots": self._most, "slots_taken": self._taken}
