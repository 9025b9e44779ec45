"""Tracks in-flight and completed offsets per partition; returns what is safe to commit.

An offset is safe to commit once every earlier offset of its partition is complete (the low
watermark). Faust 0.15.3 commits past unfinished messages and aiokafka commits what it is given,
so both commit only what this tracker returns. Offsets are stored as received: gaps left by
compaction or transactions need no special case.

Pure: no Kafka client. A partition is any hashable id; a handle is whatever commits one record.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

H = TypeVar("H")


@dataclass(slots=True)
class _Entry(Generic[H]):
    handle: H
    timestamp_s: float | None
    is_complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPosition:
    """Progress of one partition. Times are Unix seconds; None if the record has no timestamp."""

    next_offset: int  #: one past the last record received
    last_timestamp_s: float | None
    oldest_offset: int | None = None  #: oldest record in flight; None if none is
    oldest_timestamp_s: float | None = None


class OffsetTracker(Generic[H]):
    """In-flight records per partition, in offset order."""

    def __init__(self) -> None:
        self._partitions: dict[Hashable, OrderedDict[int, _Entry[H]]] = {}
        self._last: dict[Hashable, tuple[int, float | None]] = {}  # last received: offset, time

    def track(
        self, partition: Hashable, offset: int, handle: H, *, timestamp_s: float | None = None
    ) -> bool:
        """Add a received record; return False if it is already in flight.

        A redelivered record keeps its running work and gets the new handle. A record whose
        commit was lost in a rebalance is tracked again in front of later offsets; otherwise a
        later commit would move backwards.
        """
        entries = self._partitions.setdefault(partition, OrderedDict())
        if offset in entries:
            entries[offset].handle = handle
            return False
        is_redelivered = bool(entries) and offset < next(reversed(entries))
        entries[offset] = _Entry(handle, timestamp_s)
        if offset >= self._last.get(partition, (offset, None))[0]:
            self._last[partition] = (offset, timestamp_s)
        if is_redelivered:
            for later in sorted(tracked for tracked in entries if tracked > offset):
                entries.move_to_end(later)
        return True

    def complete(self, partition: Hashable, offset: int) -> list[H]:
        """Mark a record complete; return the handles that are now safe to commit, in order."""
        entries = self._partitions.get(partition)
        if entries is None or offset not in entries:
            return []  # the partition was revoked while the work ran
        entries[offset].is_complete = True
        return self._pop_completed(entries)

    def remove(self, partition: Hashable) -> int:
        """Forget a revoked partition; return the number of records that were in flight."""
        self._last.pop(partition, None)
        return len(self._partitions.pop(partition, ()))

    def partitions(self) -> list[Hashable]:
        """Return the partitions that have received a record and were not removed."""
        return list(self._partitions)

    def positions(self) -> dict[Hashable, PartitionPosition]:
        """Return the progress of every partition that has received a record."""
        positions: dict[Hashable, PartitionPosition] = {}
        for partition, (offset, timestamp_s) in self._last.items():
            oldest, entry = next(iter(self._partitions[partition].items()), (None, None))
            positions[partition] = PartitionPosition(
                next_offset=offset + 1,
                last_timestamp_s=timestamp_s,
                oldest_offset=oldest,
                oldest_timestamp_s=entry.timestamp_s if entry else None,
            )
        return positions

    def in_flight(self) -> int:
        """Return the number of records received and not yet safe to commit."""
        return sum(len(entries) for entries in self._partitions.values())

    @staticmethod
    def _pop_completed(entries: OrderedDict[int, _Entry[H]]) -> list[H]:
        handles: list[H] = []
        while entries and next(iter(entries.values())).is_complete:
            handles.append(entries.popitem(last=False)[1].handle)
        return handles
