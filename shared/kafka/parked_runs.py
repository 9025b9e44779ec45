"""Parking: which runs wait behind a dead letter, and how an operator lets them go on in order.

A marker in the store closes the lane of a run on one topic, for every process, and outlives
them. A requeue (`segue dlq requeue`) opens it for its own records alone: they carry its number,
and the last of them says that it is the last. What else comes of the run meanwhile is parked as
before, so nothing overtakes, whenever the records are read and wherever the requeue stops. When
the last was worked off, the marker goes; a record that fails again closes the lane for those
behind it; and what was parked meanwhile keeps it closed, for it is to be requeued next.

I/O: store. The records of a lane are worked one at a time, so its marker has one writer.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass

from shared.errors import NotFoundError
from shared.kafka.codec import Record
from shared.storage import ObjectStore
from shared.storage.keys import parked_key

#: headers of a requeued record
REQUEUE_ID = "dlq-requeue"  #: number of the requeue
REQUEUE_OF = "dlq-requeue-of"  #: the dead letter: topic/partition/offset
REQUEUE_LAST = "dlq-requeue-last"  #: nothing of this lane comes behind it
REQUEUES = "dlq-requeues"  #: how often it was put back after it had failed itself
FIRST_FAILED_AT = "dlq-first-failed-at"
FIRST_ORIGIN = "dlq-first-origin"  #: where it lay before its first dead letter
_RUNS_MAX = 50_000
_OPEN = re.compile(r"requeue=(\d+)( held)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedLane:
    """How a parked lane state."""

    open_for: str | None = None  #: the requeue whose records may pass; None: nothing may
    is_held: bool = False  #: something was parked since: the last of them does not release


class ParkedRuns:
    """Which runs wait behind a dead letter, per topic."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._free: OrderedDict[str, None] = OrderedDict()  # a parked run is looked up each time

    async def park(self, job_id: str, run: int, topic: str, *, reason: str) -> None:
        """From now on, records of this run on this topic are parked."""
        key = parked_key(job_id, run, topic)
        await self._store.put(key, reason.encode())
        self._free.pop(key, None)

    async def is_parked(
        self, job_id: str, run: int, topic: str, *, requeue: str | None = None
    ) -> bool:
        """Whether a dead letter holds this run up; `requeue`: the number on the record."""
        key = parked_key(job_id, run, topic)
        if key in self._free:
            return False
        if await self._store.stat(key) is not None:
            if requeue is None:
                return True
            state = await self.state(job_id, run, topic)
            return state is not None and state.open_for != requeue
        self._free[key] = None
        while len(self._free) > _RUNS_MAX:
            self._free.popitem(last=False)
        return False

    async def hold(self, job_id: str, run: int, topic: str) -> None:
        """A record was parked behind: a requeue that goes on is not the end of it."""
        state = await self.state(job_id, run, topic)
        if state is not None and state.open_for is not None and not state.is_held:
            key = parked_key(job_id, run, topic)
            await self._store.put(key, f"requeue={state.open_for} held".encode())

    async def on_processed(self, record: Record, *, job_id: str, run: int) -> None:
        """A record was worked off: the last of a requeue releases the lane, unless it is held."""
        requeue = record.header(REQUEUE_ID)
        if requeue is None or record.header(REQUEUE_LAST) is None:
            return
        state = await self.state(job_id, run, record.topic)
        if state is None or state.open_for != requeue:
            return
        if state.is_held:
            reason = f"records came while requeue {requeue} went on: requeue them"
            await self.park(job_id, run, record.topic, reason=reason)
        else:
            await self.release(job_id, run, record.topic)

    def forget(self) -> None:
        """Partitions came or went: another process may have parked what was free here."""
        self._free.clear()

    async def state(self, job_id: str, run: int, topic: str) -> ParkedLane | None:
        """How the lane state; None: it is not parked."""
        try:
            data = await self._store.get(parked_key(job_id, run, topic))
        except NotFoundError:
            return None
        found = _OPEN.fullmatch(data.decode(errors="replace"))
        return ParkedLane(open_for=found[1], is_held=bool(found[2])) if found else ParkedLane()

    async def open_for(self, job_id: str, run: int, topic: str, *, requeue: str) -> None:
        """Let the records of this requeue pass, and nothing else; a free lane stays free.

        To be called before its first record is put back. What held the lane until now is looked
        for afterwards, so it holds it no longer.
        """
        state = await self.state(job_id, run, topic)
        if state is not None and state.open_for in {None, requeue}:
            await self._store.put(parked_key(job_id, run, topic), f"requeue={requeue}".encode())

    async def release(self, job_id: str, run: int, topic: str) -> None:
        """Let the run go on, in every process: they look a parked run up with each record."""
        await self._store.delete(parked_key(job_id, run, topic))
