"""Watermark: what was taken from a partition, what is done, and what may be let go.

A record is released (acked, committed) only when everything before it in its partition is
done. Faust 0.15.3 commits past unfinished messages, and aiokafka commits what it is told:
both are told only what this ledger lets go. Offsets are remembered as they were received, so
holes in a log (compaction, transactions) need no care.

Pure: knows nothing of Kafka; a slot is any hashable name of a partition.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

H = TypeVar("H")


@dataclass(slots=True)
class _Entry(Generic[H]):
    handle: H
    written_at_s: float | None
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a slot is. Moments are seconds of Unix time; None: the record does not say."""

    next_offset: int  #: behind the last record that was taken
    last_written_at_s: float | None  #: of that record
    oldest_offset: int | None = None  #: of what is in flight; None: nothing is
    oldest_written_at_s: float | None = None


class Ledger(Generic[H]):
    """Per slot, the records in flight, in the order of their offsets.

    A handle is whatever lets a record go: an event to ack, an offset to commit.
    """

    def __init__(self) -> None:
        self._slots: dict[Hashable, OrderedDict[int, _Entry[H]]] = {}
        self._last: dict[Hashable, tuple[int, float | None]] = {}  # taken: offset and moment

    def take(
        self, slot: Hashable, offset: int, handle: H, *, written_at_s: float | None = None
    ) -> bool:
        """Note a received record; False if it is in flight already.

        A redelivered record joins the work that runs for it: the new handle replaces the old.
        One that was let go, and whose commit was not heard, is in flight again, before what
        lies behind it: else a commit would go back, and stay there.
        """
        entries = self._slots.setdefault(slot, OrderedDict())
        if offset in entries:
            entries[offset].handle = handle
            return False
        comes_back = bool(entries) and offset < next(reversed(entries))
        entries[offset] = _Entry(handle, written_at_s)
        if offset >= self._last.get(slot, (offset, None))[0]:
            self._last[slot] = (offset, written_at_s)
        if comes_back:
            for later in sorted(known for known in entries if known > offset):
                entries.move_to_end(later)
        return True

    def finish(self, slot: Hashable, offset: int) -> list[H]:
        """Mark a record done; the handles that may be let go now, in offset order."""
        entries = self._slots.get(slot)
        if entries is None or offset not in entries:
            return []  # the slot was dropped while the work ran: nothing of it is ours to let go
        entries[offset].finished = True
        return self._released(entries)

    def release(self, slot: Hashable) -> list[H]:
        """The handles at the head that are done already, after a redelivery swapped them in."""
        entries = self._slots.get(slot)
        return self._released(entries) if entries else []

    def drop(self, slot: Hashable) -> int:
        """Forget a slot that went elsewhere; how many records were in flight."""
        self._last.pop(slot, None)
        return len(self._slots.pop(slot, ()))

    def slots(self) -> list[Hashable]:
        """The slots with records in flight or once seen."""
        return list(self._slots)

    def standing(self) -> dict[Hashable, Standing]:
        """How far each slot is of which a record was taken."""
        found: dict[Hashable, Standing] = {}
        for slot, (offset, written_at_s) in self._last.items():
            oldest, entry = next(iter(self._slots[slot].items()), (None, None))
            found[slot] = Standing(
                next_offset=offset + 1,
                last_written_at_s=written_at_s,
                oldest_offset=oldest,
                oldest_written_at_s=entry.written_at_s if entry else None,
            )
        return found

    def in_flight(self) -> int:
        """Records taken and not let go."""
        return sum(len(entries) for entries in self._slots.values())

    @staticmethod
    def _released(entries: OrderedDict[int, _Entry[H]]) -> list[H]:
        handles: list[H] = []
        while entries and next(iter(entries.values())).finished:
            handles.append(entries.popitem(last=False)[1].handle)
        return handles
