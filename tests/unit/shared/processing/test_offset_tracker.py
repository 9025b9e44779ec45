"""Watermark: nothing is let go before everything in front of it is done."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from shared.processing.offset_tracker import OffsetTracker, PartitionPosition


def test_a_record_is_held_until_those_before_it_are_done() -> None:
    """Then all go at once, in the order of the partition."""
    tracker: OffsetTracker[str] = OffsetTracker()
    for offset in (3, 4, 7):
        tracker.track("p0", offset, f"h{offset}")

    assert tracker.complete("p0", 7) == []
    assert tracker.complete("p0", 4) == []
    assert tracker.in_flight() == 3
    assert tracker.complete("p0", 3) == ["h3", "h4", "h7"]
    assert tracker.in_flight() == 0


def test_partitions_do_not_hold_each_other() -> None:
    """Each has its own order."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "slow")
    tracker.track("p1", 0, "quick")

    assert tracker.complete("p1", 0) == ["quick"]


def test_a_redelivered_record_joins_the_work_that_runs_for_it() -> None:
    """The newer handle is the one that still works."""
    tracker: OffsetTracker[str] = OffsetTracker()
    assert tracker.track("p0", 0, "before the rebalance")
    assert not tracker.track("p0", 0, "after")

    assert tracker.complete("p0", 0) == ["after"]


def test_a_record_that_was_done_waits_with_its_newer_handle() -> None:
    """It was held back by another, then handed out again."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")
    tracker.track("p0", 1, "b")
    tracker.complete("p0", 1)
    tracker.track("p0", 1, "b again")

    assert tracker.committable("p0") == []
    assert tracker.complete("p0", 0) == ["a", "b again"]


def test_what_was_let_go_and_comes_again_is_let_go_before_what_lies_behind_it() -> None:
    """Its commit was refused while the group regrouped; else the last commit would go back."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")
    tracker.track("p0", 1, "b")
    assert tracker.complete("p0", 0) == ["a"]
    assert tracker.track("p0", 0, "a again")

    assert tracker.complete("p0", 1) == []
    assert tracker.complete("p0", 0) == ["a again", "b"]


def test_what_went_elsewhere_is_not_let_go_here() -> None:
    """Its late end belongs to nobody."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")

    assert tracker.remove("p0") == 1
    assert tracker.remove("p0") == 0
    assert tracker.complete("p0", 0) == []
    assert tracker.committable("p0") == []
    assert tracker.partitions() == []


def test_it_tells_how_far_it_is_and_what_holds_it_up() -> None:
    """The oldest of what is in flight with its moment, and the last that was taken."""
    tracker: OffsetTracker[str] = OffsetTracker()
    assert tracker.positions() == {}
    tracker.track("p0", 4, "a", timestamp_s=100.0)
    tracker.track("p0", 7, "b", timestamp_s=200.0)
    tracker.complete("p0", 7)
    held = PartitionPosition(
        next_offset=8, last_timestamp_s=200.0, oldest_offset=4, oldest_timestamp_s=100.0
    )
    assert tracker.positions() == {"p0": held}

    tracker.complete("p0", 4)
    assert tracker.positions() == {"p0": PartitionPosition(next_offset=8, last_timestamp_s=200.0)}
    tracker.remove("p0")
    assert tracker.positions() == {}


class OffsetTrackerLife(RuleBasedStateMachine):
    """A partition's life: records come in order, end in any, come again, go elsewhere.

    The model: what was taken, what is done, what was let go, each with its last handle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tracker: OffsetTracker[tuple[int, int]] = OffsetTracker()
        self.taken: list[int] = []
        self.done: set[int] = set()
        self.gone: list[int] = []
        self.handle_of: dict[int, tuple[int, int]] = {}
        self.handles = 0

    def _handle(self, offset: int) -> tuple[int, int]:
        self.handles += 1
        self.handle_of[offset] = (offset, self.handles)
        return self.handle_of[offset]

    def _went(self, handles: list[tuple[int, int]]) -> None:
        for handle in handles:
            offset = handle[0]
            assert handle == self.handle_of[offset], "the last handle is the one that works"
            assert offset in self.done, "unfinished"
            assert offset not in self.gone, "twice"
            before = [taken for taken in self.taken if taken < offset]
            assert set(before) <= set(self.gone), "something before it is not done"
            self.gone.append(offset)

    @rule(hole=st.integers(1, 3))
    def take(self, hole: int) -> None:
        """The next record; offsets may have holes."""
        offset = (self.taken[-1] if self.taken else -1) + hole
        self.taken.append(offset)
        assert self.tracker.track("p", offset, self._handle(offset))

    def _in_flight(self) -> list[int]:
        return [offset for offset in self.taken if offset not in self.gone]

    @precondition(lambda self: self._in_flight())
    @rule(data=st.data())
    def redeliver(self, data: Any) -> None:
        """A record in flight is handed out again, finished or not."""
        offset = data.draw(st.sampled_from(self._in_flight()))
        assert not self.tracker.track("p", offset, self._handle(offset))
        self._went(self.tracker.committable("p"))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def read_again(self, data: Any) -> None:
        """The commit of what was let go is not heard: it is read again from some place on."""
        start = data.draw(st.sampled_from(self.gone))
        for offset in sorted(gone for gone in self.gone if gone >= start):
            self.gone.remove(offset)
            self.done.discard(offset)
            assert self.tracker.track("p", offset, self._handle(offset))

    @precondition(lambda self: set(self._in_flight()) - self.done)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        """Any unfinished record ends."""
        offset = data.draw(st.sampled_from(sorted(set(self._in_flight()) - self.done)))
        self.done.add(offset)
        self._went(self.tracker.complete("p", offset))

    @rule()
    def drop(self) -> None:
        """The partition goes elsewhere, and comes back from where its log stood."""
        assert self.tracker.remove("p") == len(self._in_flight())
        self.taken = list(self.gone)
        self.done = set(self.gone)

    @invariant()
    def everything_done_at_the_head_was_let_go(self) -> None:
        """Held back is only what waits for an unfinished record."""
        held = self._in_flight()
        assert not held or held[0] not in self.done
        assert self.tracker.in_flight() == len(held)

    @override
    def teardown(self) -> None:
        """In the end everything goes, once and in order."""
        for offset in sorted(set(self._in_flight()) - self.done, reverse=True):
            self.done.add(offset)
            self._went(self.tracker.complete("p", offset))
        assert self.gone == sorted(self.gone)
        assert self._in_flight() == []


TestOffsetTrackerLife = OffsetTrackerLife.TestCase
TestOffsetTrackerLife.settings = settings(max_examples=60, stateful_step_count=30)
