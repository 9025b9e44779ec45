"""Lanes: records of one key strictly one after the other, thousands of keys at once.

Each record is a task chained behind the previous task of its key. A lane never passes a record
that did not finish: work retries in place, and if a task is cancelled the ones behind it are
too. What is finished is let go in the order of its partition
(`shared/processing/offset_tracker.py`).

When the group regroups, lanes are suspended: they stop at their next gate (before anything is
paid or published). When partitions come back they go on; lanes of partitions that went
elsewhere are cancelled, and their records are somebody else's.

Knows nothing of Kafka: a slot is any name of a partition, a handle whatever lets a record go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar
from weakref import WeakSet

from shared.processing.offset_tracker import Ledger, Standing

H = TypeVar("H")
Release = Callable[[Hashable, list[H]], None]
Work = Callable[[], Awaitable[None]]
CANCEL_S = 5.0  # for work to clear up behind itself; a thread it waits for cannot be ended


class Lanes(Generic[H]):
    """Takes records, runs them in order per key, and lets them go in order per slot.

    `release(slot, handles)` is called with the handles that may go, in offset order.
    """

    def __init__(self, release: Release[H]) -> None:
        self._release = release
        self._ledger: Ledger[H] = Ledger()
        self._tails: dict[tuple[Hashable, str], asyncio.Task[None]] = {}
        self._tasks: dict[Hashable, dict[int, asyncio.Task[None]]] = {}
        self._dropped: WeakSet[asyncio.Task[None]] = WeakSet()  # still clearing up, perhaps
        self._owned = asyncio.Event()
        self._owned.set()
        self._room = asyncio.Event()
        self._room.set()
        #: set with the first error that work let through; whoever drives the lanes watches it
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """Records taken and not let go."""
        return self._ledger.in_flight()

    @property
    def busy(self) -> int:
        """Lanes with a record that is not finished."""
        return len(self._tails)

    def figures(self) -> dict[str, int]:
        """How much is under way, for `readyz`."""
        return {"lanes": self.busy, "records_in_flight": self.in_flight}

    def standing(self) -> Mapping[Hashable, Standing]:
        """How far each slot is, for whoever measures how far behind."""
        return self._ledger.standing()

    async def gate(self) -> None:
        """Wait until the partitions are ours; before every step that is seen outside."""
        await self._owned.wait()

    def offer(
        self,
        *,
        slot: Hashable,
        offset: int,
        key: str,
        handle: H,
        work: Work,
        written_at_s: float | None = None,
    ) -> bool:
        """Take a record; False if it is under way already and only its handle was swapped."""
        if not self._ledger.take(slot, offset, handle, written_at_s=written_at_s):
            self._let_go(slot, self._ledger.release(slot))
            return False
        lane = (slot, key)
        task = asyncio.create_task(self._chained(self._tails.get(lane), slot, offset, work))
        self._tails[lane] = task
        self._tasks.setdefault(slot, {})[offset] = task
        task.add_done_callback(lambda done: self._ended(lane, slot, offset, done))
        return True

    def suspend(self) -> None:
        """The group regroups: lanes stop at their next gate."""
        self._owned.clear()

    def resume(self, owned: Collection[Hashable]) -> dict[Hashable, int]:
        """Go on with `owned` slots; the others' lanes end. How many records each lost slot had."""
        lost = {slot: self._drop(slot) for slot in self._ledger.slots() if slot not in owned}
        self._owned.set()
        return {slot: count for slot, count in lost.items() if count}

    async def drain(self, within_s: float) -> int:
        """Wait for what runs, at most so long, then cancel it; how many were cancelled."""
        tasks = [task for slot in self._tasks.values() for task in slot.values()]
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_S)
        return len(late)

    async def room(self, in_flight_max: int) -> None:
        """Wait until fewer than `in_flight_max` records are in flight."""
        while self.in_flight >= in_flight_max:
            self._room.clear()
            await self._room.wait()

    async def _chained(
        self, previous: asyncio.Task[None] | None, slot: Hashable, offset: int, work: Work
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
            # A lane that was lost and came back waits for its old work, and begins anew.
            lost = previous in self._dropped
            if not lost and (previous.cancelled() or previous.exception() is not None):
                raise asyncio.CancelledError  # a lane never passes a record that did not finish
        await self._owned.wait()
        await work()
        self._let_go(slot, self._ledger.finish(slot, offset))

    def _let_go(self, slot: Hashable, handles: list[H]) -> None:
        self._room.set()
        if handles:
            self._release(slot, handles)

    def _ended(
        self, lane: tuple[Hashable, str], slot: Hashable, offset: int, task: asyncio.Task[None]
    ) -> None:
        if self._tails.get(lane) is task:
            del self._tails[lane]
        tasks = self._tasks.get(slot, {})
        if tasks.get(offset) is task:
            del tasks[offset]
        self._room.set()
        if not task.cancelled() and (error := task.exception()) and not self.broken.done():
            self.broken.set_exception(error)

    def _drop(self, slot: Hashable) -> int:
        count = self._ledger.drop(slot)
        for task in self._tasks.pop(slot, {}).values():
            self._dropped.add(task)
            task.cancel()
        return count
