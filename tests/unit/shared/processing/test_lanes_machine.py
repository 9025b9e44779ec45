"""Lanes as a state machine: no sequence of events breaks a rule of the lanes."""

import asyncio
from collections.abc import Hashable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from shared.processing.lanes import Lanes

PARTITIONS, KEYS = ("p0", "p1"), "xyz"
LOOP_ITERATIONS = 12  # enough for every task that can run
Record = tuple[str, int]  #: partition, offset


class LanesMachine(RuleBasedStateMachine):
    """A consumer: records arrive, work ends, rebalances take partitions and return them.

    The model: per partition the offsets received and committed since it was assigned; the records
    in work and those complete.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lanes: Lanes[int] = self._on_loop(lambda: Lanes(self._on_commit))
        self.next = dict.fromkeys(PARTITIONS, 0)
        self.key_of: dict[Record, str] = {}
        self.received: dict[str, list[int]] = {partition: [] for partition in PARTITIONS}
        self.running: dict[Record, asyncio.Event] = {}
        self.complete: set[Record] = set()
        self.committed: dict[str, list[int]] = {partition: [] for partition in PARTITIONS}
        self.is_suspended = False
        self.violations: list[str] = []

    def _on_loop(self, call: Any) -> Any:
        async def run() -> Any:
            result = call()
            for _ in range(LOOP_ITERATIONS):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(run())

    def _on_commit(self, partition: Hashable, handles: list[int]) -> None:
        assert isinstance(partition, str), "partitions are names here"
        self.committed[partition] += handles

    def _submit(self, partition: str, offset: int) -> bool:
        record = (partition, offset)

        async def work() -> None:
            if self.is_suspended:
                self.violations.append(f"{record} started during a rebalance")
            if any(
                self.key_of[other] == self.key_of[record] and other[0] == partition
                for other in self.running
            ):
                self.violations.append(f"{record} ran concurrently with another of its job")
            self.running[record] = asyncio.Event()
            try:
                await self.running[record].wait()
                self.complete.add(record)
            finally:
                del self.running[record]

        return bool(
            self._on_loop(
                lambda: self.lanes.submit(
                    partition=partition,
                    offset=offset,
                    key=self.key_of[record],
                    handle=offset,
                    work=work,
                )
            )
        )

    def _in_flight(self, partition: str) -> list[int]:
        return [
            offset for offset in self.received[partition] if offset not in self.committed[partition]
        ]

    @rule(partition=st.sampled_from(PARTITIONS), key=st.sampled_from(KEYS))
    def receive(self, partition: str, key: str) -> None:
        """Receive the next record of a partition."""
        offset = self.next[partition]
        self.next[partition] += 1
        self.key_of[partition, offset] = key
        self.received[partition].append(offset)
        assert self._submit(partition, offset)

    @precondition(lambda self: any(self._in_flight(partition) for partition in PARTITIONS))
    @rule(data=st.data())
    def redeliver(self, data: Any) -> None:
        """Receive a record in flight again; it is not processed twice."""
        busy = [partition for partition in PARTITIONS if self._in_flight(partition)]
        partition = data.draw(st.sampled_from(busy))
        assert not self._submit(partition, data.draw(st.sampled_from(self._in_flight(partition))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def complete_one(self, data: Any) -> None:
        """End the work of a record, also during a rebalance."""
        record = data.draw(st.sampled_from(sorted(self.running)))
        self._on_loop(self.running[record].set)

    @rule()
    def suspend(self) -> None:
        """Start a rebalance."""
        self.is_suspended = True
        self._on_loop(self.lanes.suspend)

    @rule(owned=st.sets(st.sampled_from(PARTITIONS)))
    def resume(self, owned: set[str]) -> None:
        """End the rebalance; lost partitions are cancelled and restart from their commit."""
        self.is_suspended = False
        before = {partition: len(self._in_flight(partition)) for partition in PARTITIONS}
        lost = self._on_loop(lambda: self.lanes.resume(owned))
        for partition in set(PARTITIONS) - owned:
            committed = self.committed[partition]
            assert lost.get(partition, 0) == before[partition]
            self.received[partition] = list(committed)
            self.complete -= {
                (partition, offset)
                for offset in range(self.next[partition])
                if offset not in committed
            }
            self.next[partition] = len(committed)
        assert not set(lost) & owned

    @invariant()
    def rules_hold(self) -> None:
        """Jobs are in order and sequential, commits in offset order, and no lane is idle."""
        assert self.violations == []
        assert not self.lanes.failure.done()
        for partition in PARTITIONS:
            committed = self.committed[partition]
            assert committed == list(range(len(committed)))
            assert {(partition, offset) for offset in committed} <= self.complete
            for key in KEYS:
                lane = [
                    offset
                    for offset in self.received[partition]
                    if self.key_of[partition, offset] == key
                ]
                states = [(partition, offset) in self.complete for offset in lane]
                assert states == sorted(states, reverse=True), "an unfinished record was skipped"
                waiting = [offset for offset in lane if (partition, offset) not in self.complete]
                if waiting and not self.is_suspended:
                    assert (partition, waiting[0]) in self.running, "the lane is idle"
            head = self._in_flight(partition)
            assert not head or (partition, head[0]) not in self.complete, "complete, not committed"
        assert self.lanes.in_flight == sum(
            len(self._in_flight(partition)) for partition in PARTITIONS
        )

    @override
    def teardown(self) -> None:
        """Complete everything, in order."""
        self.resume(set(PARTITIONS))
        while self.running:
            self._on_loop(self.running[min(self.running)].set)
            self.rules_hold()
        assert self.lanes.in_flight == 0
        self.loop.close()


TestLanesMachine = LanesMachine.TestCase
TestLanesMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
