"""Runs records of one key strictly in order and many keys concurrently.

Each record is a task chained behind the previous task of its key (a lane). A lane never skips an
unfinished record: work retries in place, and a cancelled task cancels the tasks behind it.
Completed records are committed in the offset order of their partition
(`shared/processing/offset_tracker.py`).

A rebalance suspends the lanes: they stop at their next `wait_until_owned` (before anything is
paid or published). Lanes of partitions that are assigned again resume; lanes of partitions that
were lost are cancelled.

No Kafka client. A partition is any hashable id; a handle is whatever commits one record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar
from weakref import WeakSet

from shared.processing.offset_tracker import OffsetTracker, PartitionPosition

H = TypeVar("H")
Commit = Callable[[Hashable, list[H]], None]
Work = Callable[[], Awaitable[None]]
CANCEL_S = 5.0  # for cancelled work to clean up; a thread it waits for cannot be cancelled


class Lanes(Generic[H]):
    """Runs submitted records in order per key and commits them in order per partition.

    `commit(partition, handles)` is called with the handles that are safe to commit, in offset
    order.
    """

    def __init__(self, commit: Commit[H]) -> None:
        self._commit = commit
        self._tracker: OffsetTracker[H] = OffsetTracker()
        self._tails: dict[tuple[Hashable, str], asyncio.Task[None]] = {}
        self._tasks: dict[Hashable, dict[int, asyncio.Task[None]]] = {}
        self._cancelled: WeakSet[asyncio.Task[None]] = WeakSet()  # may still be cleaning up
        self._owned = asyncio.Event()
        self._owned.set()
        self._capacity = asyncio.Event()
        self._capacity.set()
        #: gets the first exception that work raised; the consumer waits for it and stops
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """Number of records submitted and not yet committed."""
        return self._tracker.in_flight()

    @property
    def active(self) -> int:
        """Number of lanes with an unfinished record."""
        return len(self._tails)

    def figures(self) -> dict[str, int]:
        """Return the number of active lanes and of records in flight, for `readyz`."""
        return {"lanes": self.active, "records_in_flight": self.in_flight}

    def positions(self) -> Mapping[Hashable, PartitionPosition]:
        """Return the progress of every partition."""
        return self._tracker.positions()

    async def wait_until_owned(self) -> None:
        """Wait for the end of a rebalance; called before every step with outside effects."""
        await self._owned.wait()

    def submit(
        self,
        *,
        partition: Hashable,
        offset: int,
        key: str,
        handle: H,
        work: Work,
        timestamp_s: float | None = None,
    ) -> bool:
        """Queue a record in its lane; return False if it is already in flight.

        A record in flight keeps its running work and gets the new handle.
        """
        if not self._tracker.track(partition, offset, handle, timestamp_s=timestamp_s):
            return False
        lane = (partition, key)
        task = asyncio.create_task(self._run_after(self._tails.get(lane), partition, offset, work))
        self._tails[lane] = task
        self._tasks.setdefault(partition, {})[offset] = task
        task.add_done_callback(lambda done: self._on_task_done(lane, partition, offset, done))
        return True

    def suspend(self) -> None:
        """Stop lanes at their next `wait_until_owned`; called when a rebalance starts."""
        self._owned.clear()

    def resume(self, owned: Collection[Hashable]) -> dict[Hashable, int]:
        """Resume lanes of `owned`, cancel the others; return records lost per partition."""
        lost = {
            partition: self._cancel_partition(partition)
            for partition in self._tracker.partitions()
            if partition not in owned
        }
        self._owned.set()
        return {partition: count for partition, count in lost.items() if count}

    def restart(self, partition: Hashable) -> int:
        """Cancel the lanes of a partition whose log was created again; return their records.

        Its offsets begin again, so a new record may have the offset of one in flight.
        """
        count = self._cancel_partition(partition)
        self._capacity.set()
        return count

    async def drain(self, timeout_s: float) -> int:
        """Wait for running tasks, then cancel the rest; return how many were cancelled."""
        tasks = [task for partition in self._tasks.values() for task in partition.values()]
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_S)
        return len(late)

    async def wait_for_capacity(self, in_flight_max: int) -> None:
        """Wait until fewer than `in_flight_max` records are in flight."""
        while self.in_flight >= in_flight_max:
            self._capacity.clear()
            await self._capacity.wait()

    async def _run_after(
        self,
        previous: asyncio.Task[None] | None,
        partition: Hashable,
        offset: int,
        work: Work,
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
            # After a lost partition is assigned again, its records run again from the start.
            was_lost = previous in self._cancelled
            if not was_lost and (previous.cancelled() or previous.exception() is not None):
                raise asyncio.CancelledError  # a lane never skips an unfinished record
        await self._owned.wait()
        await work()
        self._commit_records(partition, self._tracker.complete(partition, offset))

    def _commit_records(self, partition: Hashable, handles: list[H]) -> None:
        self._capacity.set()
        if handles:
            self._commit(partition, handles)

    def _on_task_done(
        self,
        lane: tuple[Hashable, str],
        partition: Hashable,
        offset: int,
        task: asyncio.Task[None],
    ) -> None:
        if self._tails.get(lane) is task:
            del self._tails[lane]
        tasks = self._tasks.get(partition, {})
        if tasks.get(offset) is task:
            del tasks[offset]
        self._capacity.set()
        if not task.cancelled() and (error := task.exception()) and not self.failure.done():
            self.failure.set_exception(error)

    def _cancel_partition(self, partition: Hashable) -> int:
        count = self._tracker.remove(partition)
        for task in self._tasks.pop(partition, {}).values():
            self._cancelled.add(task)
            task.cancel()
        return count
