"""Parks runs behind a dead letter; lets a requeue pass in order and then releases the run.

A marker in the store closes the lane of a run on one topic, for every process and across
restarts. A requeue (`segue dlq requeue`) opens the lane for its own records only: they carry its
id, and the last one is marked as the last. Other records of the run that arrive meanwhile are
parked as before, so none overtakes, wherever they are read and wherever the requeue stops. When
the last requeued record was processed, the marker is deleted. A requeued record that fails again
closes the lane for those behind it; records that were parked meanwhile keep the lane closed, for
they must be requeued next.

I/O: the store. Records of a lane are processed one at a time, so its marker has one writer.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass

from shared.errors import NotFoundError
from shared.kafka.codec import Record
from shared.storage import ObjectStore
from shared.storage.keys import parked_key

#: headers of a requeued record
REQUEUE_ID = "dlq-requeue"  #: id of the requeue
REQUEUE_OF = "dlq-requeue-of"  #: the dead letter: topic/partition/offset
REQUEUE_LAST = "dlq-requeue-last"  #: no record of this lane follows in the requeue
REQUEUES = "dlq-requeues"  #: number of times the record itself failed and was requeued
FIRST_FAILED_AT = "dlq-first-failed-at"
FIRST_ORIGIN = "dlq-first-origin"  #: its position before its first dead letter
_RUNS_MAX = 50_000
_OPEN = re.compile(r"requeue=(\d+)( held)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedLane:
    """State of a parked lane."""

    open_for: str | None = None  #: id of the requeue whose records pass; None: none do
    is_held: bool = False  #: a record was parked since: the end of the requeue does not release


class ParkedRuns:
    """The runs that are parked behind a dead letter, per topic."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._free: OrderedDict[str, None] = OrderedDict()  # lanes known to have no marker

    async def park(self, job_id: str, run: int, topic: str, *, reason: str) -> None:
        """Park all further records of this run on this topic."""
        key = parked_key(job_id, run, topic)
        await self._store.put(key, reason.encode())
        self._free.pop(key, None)

    async def is_parked(
        self, job_id: str, run: int, topic: str, *, requeue: str | None = None
    ) -> bool:
        """Return whether a record of the run must be parked; `requeue` is the id it carries."""
        key = parked_key(job_id, run, topic)
        if key in self._free:
            return False
        if await self._store.stat(key) is not None:
            if requeue is None:
                return True
            lane = await self.state(job_id, run, topic)
            return lane is not None and lane.open_for != requeue
        self._free[key] = None
        while len(self._free) > _RUNS_MAX:
            self._free.popitem(last=False)
        return False

    async def hold(self, job_id: str, run: int, topic: str) -> None:
        """Keep the lane closed at the end of the running requeue: a record was parked."""
        lane = await self.state(job_id, run, topic)
        if lane is not None and lane.open_for is not None and not lane.is_held:
            key = parked_key(job_id, run, topic)
            await self._store.put(key, f"requeue={lane.open_for} held".encode())

    async def on_processed(self, record: Record, *, job_id: str, run: int) -> None:
        """Release the lane after the last record of a requeue, unless it is held."""
        requeue = record.header(REQUEUE_ID)
        if requeue is None or record.header(REQUEUE_LAST) is None:
            return
        lane = await self.state(job_id, run, record.topic)
        if lane is None or lane.open_for != requeue:
            return
        if lane.is_held:
            reason = f"records were parked during requeue {requeue}: requeue them"
            await self.park(job_id, run, record.topic, reason=reason)
        else:
            await self.release(job_id, run, record.topic)

    def forget(self) -> None:
        """Clear the cache after a rebalance: another process may have parked a run."""
        self._free.clear()

    async def state(self, job_id: str, run: int, topic: str) -> ParkedLane | None:
        """Return the state of a parked lane; None if it is not parked."""
        try:
            data = await self._store.get(parked_key(job_id, run, topic))
        except NotFoundError:
            return None
        match = _OPEN.fullmatch(data.decode(errors="replace"))
        return ParkedLane(open_for=match[1], is_held=bool(match[2])) if match else ParkedLane()

    async def open_for(self, job_id: str, run: int, topic: str, *, requeue: str) -> None:
        """Open a parked lane for the records of one requeue; a free lane stays free.

        To be called before the first record is requeued. A hold is cleared: the requeue reads
        the parked records afterwards, so it includes them.
        """
        lane = await self.state(job_id, run, topic)
        if lane is not None and lane.open_for in {None, requeue}:
            await self._store.put(parked_key(job_id, run, topic), f"requeue={requeue}".encode())

    async def release(self, job_id: str, run: int, topic: str) -> None:
        """Delete the marker; every process reads it for each record of a parked run."""
        await self._store.delete(parked_key(job_id, run, topic))
