"""A record is committable only when every earlier record of its partition is complete."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from shared.processing.offset_tracker import OffsetTracker, PartitionPosition


def test_a_record_is_not_committable_before_earlier_ones_complete() -> None:
    """Then all of them are, in partition order."""
    tracker: OffsetTracker[str] = OffsetTracker()
    for offset in (3, 4, 7):
        tracker.track("p0", offset, f"h{offset}")

    assert tracker.complete("p0", 7) == []
    assert tracker.complete("p0", 4) == []
    assert tracker.in_flight() == 3
    assert tracker.complete("p0", 3) == ["h3", "h4", "h7"]
    assert tracker.in_flight() == 0


def test_partitions_are_independent() -> None:
    """Each partition has its own order."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "slow")
    tracker.track("p1", 0, "quick")

    assert tracker.complete("p1", 0) == ["quick"]


def test_a_redelivered_record_keeps_its_work_and_gets_the_new_handle() -> None:
    """The handle from before a rebalance is no longer valid."""
    tracker: OffsetTracker[str] = OffsetTracker()
    assert tracker.track("p0", 0, "before the rebalance")
    assert not tracker.track("p0", 0, "after")

    assert tracker.complete("p0", 0) == ["after"]


def test_a_complete_record_that_is_redelivered_is_committed_with_its_new_handle() -> None:
    """It waited for an earlier record when it was delivered again."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")
    tracker.track("p0", 1, "b")
    tracker.complete("p0", 1)
    tracker.track("p0", 1, "b again")

    assert tracker.complete("p0", 0) == ["a", "b again"]


def test_a_record_whose_commit_was_lost_is_committed_before_later_ones() -> None:
    """A rebalance rejected its commit; otherwise the last commit would move backwards."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")
    tracker.track("p0", 1, "b")
    assert tracker.complete("p0", 0) == ["a"]
    assert tracker.track("p0", 0, "a again")

    assert tracker.complete("p0", 1) == []
    assert tracker.complete("p0", 0) == ["a again", "b"]


def test_records_of_a_removed_partition_are_not_committable() -> None:
    """Another consumer owns them, even if their work ends later."""
    tracker: OffsetTracker[str] = OffsetTracker()
    tracker.track("p0", 0, "a")

    assert tracker.remove("p0") == 1
    assert tracker.remove("p0") == 0
    assert tracker.complete("p0", 0) == []
    assert tracker.partitions() == []


def test_positions_return_the_last_record_and_the_oldest_in_flight() -> None:
    """Each with its timestamp."""
    tracker: OffsetTracker[str] = OffsetTracker()
    assert tracker.positions() == {}
    tracker.track("p0", 4, "a", timestamp_s=100.0)
    tracker.track("p0", 7, "b", timestamp_s=200.0)
    tracker.complete("p0", 7)
    blocked = PartitionPosition(
        next_offset=8, last_timestamp_s=200.0, oldest_offset=4, oldest_timestamp_s=100.0
    )
    assert tracker.positions() == {"p0": blocked}

    tracker.complete("p0", 4)
    assert tracker.positions() == {"p0": PartitionPosition(next_offset=8, last_timestamp_s=200.0)}
    tracker.remove("p0")
    assert tracker.positions() == {}


class OffsetTrackerMachine(RuleBasedStateMachine):
    """One partition: records arrive in order, complete in any, are redelivered or revoked.

    The model: offsets received, complete and committed, and the latest handle of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tracker: OffsetTracker[tuple[int, int]] = OffsetTracker()
        self.received: list[int] = []
        self.complete: set[int] = set()
        self.committed: list[int] = []
        self.handle_of: dict[int, tuple[int, int]] = {}
        self.handles = 0

    def _new_handle(self, offset: int) -> tuple[int, int]:
        self.handles += 1
        self.handle_of[offset] = (offset, self.handles)
        return self.handle_of[offset]

    def _commit(self, handles: list[tuple[int, int]]) -> None:
        for handle in handles:
            offset = handle[0]
            assert handle == self.handle_of[offset], "only the latest handle is valid"
            assert offset in self.complete, "committed unfinished"
            assert offset not in self.committed, "committed twice"
            earlier = {received for received in self.received if received < offset}
            assert earlier <= set(self.committed), "an earlier record is unfinished"
            self.committed.append(offset)

    @rule(gap=st.integers(1, 3))
    def receive(self, gap: int) -> None:
        """Receive the next record; offsets may have gaps."""
        offset = (self.received[-1] if self.received else -1) + gap
        self.received.append(offset)
        assert self.tracker.track("p", offset, self._new_handle(offset))

    def _in_flight(self) -> list[int]:
        return [offset for offset in self.received if offset not in self.committed]

    @precondition(lambda self: self._in_flight())
    @rule(data=st.data())
    def redeliver(self, data: Any) -> None:
        """Receive a record in flight again, complete or not."""
        offset = data.draw(st.sampled_from(self._in_flight()))
        assert not self.tracker.track("p", offset, self._new_handle(offset))

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def lose_commits(self, data: Any) -> None:
        """Lose the commits from some offset on: those records are received again."""
        start = data.draw(st.sampled_from(self.committed))
        for offset in sorted(offset for offset in self.committed if offset >= start):
            self.committed.remove(offset)
            self.complete.discard(offset)
            assert self.tracker.track("p", offset, self._new_handle(offset))

    @precondition(lambda self: set(self._in_flight()) - self.complete)
    @rule(data=st.data())
    def complete_one(self, data: Any) -> None:
        """Complete any unfinished record."""
        offset = data.draw(st.sampled_from(sorted(set(self._in_flight()) - self.complete)))
        self.complete.add(offset)
        self._commit(self.tracker.complete("p", offset))

    @rule()
    def revoke(self) -> None:
        """Lose the partition; it comes back from its committed offset."""
        assert self.tracker.remove("p") == len(self._in_flight())
        self.received = list(self.committed)
        self.complete = set(self.committed)

    @invariant()
    def complete_records_at_the_head_are_committed(self) -> None:
        """Only records behind an unfinished one wait."""
        in_flight = self._in_flight()
        assert not in_flight or in_flight[0] not in self.complete
        assert self.tracker.in_flight() == len(in_flight)

    @override
    def teardown(self) -> None:
        """Complete everything: each record is committed once and in order."""
        for offset in sorted(set(self._in_flight()) - self.complete, reverse=True):
            self.complete.add(offset)
            self._commit(self.tracker.complete("p", offset))
        assert self.committed == sorted(self.committed)
        assert self._in_flight() == []


TestOffsetTrackerMachine = OffsetTrackerMachine.TestCase
TestOffsetTrackerMachine.settings = settings(max_examples=60, stateful_step_count=30)
