"""Bounds concurrent work and reports how many slots are in use; waiters are served in order."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
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


class KeyedSlots:
    """Slots per key, for what one key must not take from the others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._slots: dict[Hashable, tuple[Slots, int]] = {}  #: with the number of its users

    @asynccontextmanager
    async def taken(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for a free slot of `key`, hold it, and free it."""
        slots, users = self._slots.get(key, (Slots(self._count), 0))
        self._slots[key] = slots, users + 1
        try:
            async with slots:
                yield
        finally:
            slots, users = self._slots.pop(key)
            if users > 1:
                self._slots[key] = slots, users - 1
