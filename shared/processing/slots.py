"""Bounds concurrent work and reports how many slots are in use; waiters are served in order."""

import asyncio
from types import TracebackType


class Slots:
    """A semaphore with usage figures: `async with slots:` around the work."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._used = 0
        self._semaphore = asyncio.Semaphore(count)

    async def __aenter__(self) -> None:
        """Wait for a free slot and take it."""
        await self._semaphore.acquire()
        self._used += 1

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Free the slot."""
        self._used -= 1
        self._semaphore.release()

    def figures(self) -> dict[str, int]:
        """Return the number of slots and of those in use, for `readyz`."""
        return {"slots": self._count, "slots_taken": self._used}
