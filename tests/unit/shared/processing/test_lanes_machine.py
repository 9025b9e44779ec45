"""Lanes as a state machine: whatever happens in whatever order, no rule of a lane is broken."""

import asyncio
from collections.abc import Hashable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from shared.processing.lanes import Lanes

SLOTS, KEYS = ("p0", "p1"), "xyz"
TURNS = 12
Record = tuple[str, int]  #: slot, offset


class LanesLife(RuleBasedStateMachine):
    """A member's life: records come, work ends or breaks, the group regroups, slots go and come.

    The model: what was taken, whose work runs, what is done, what was let go, since the slot came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lanes: Lanes[int] = self._on_loop(lambda: Lanes(self._released))
        self.next = dict.fromkeys(SLOTS, 0)
        self.key_of: dict[Record, str] = {}
        self.taken: dict[str, list[int]] = {slot: [] for slot in SLOTS}
        self.running: dict[Record, asyncio.Event] = {}
        self.done: set[Record] = set()
        self.gone: dict[str, list[int]] = {slot: [] for slot in SLOTS}
        self.suspended = False
        self.wrong: list[str] = []

    def _on_loop(self, make: Any) -> Any:
        async def run() -> Any:
            made = make()
            for _ in range(TURNS):  # everything that can go on goes on
                await asyncio.sleep(0)
            return made

        return self.loop.run_until_complete(run())

    def _released(self, slot: Hashable, handles: list[int]) -> None:
        assert isinstance(slot, str), "slots are names here"
        self.gone[slot] += handles

    def _offer(self, slot: str, offset: int) -> bool:
        record = (slot, offset)

        async def work() -> None:
            if self.suspended:
                self.wrong.append(f"{record} began while the group regroups")
            if any(self.key_of[r] == self.key_of[record] and r[0] == slot for r in self.running):
                self.wrong.append(f"{record} began beside one of its own job")
            self.running[record] = asyncio.Event()
            try:
                await self.running[record].wait()
                self.done.add(record)
            finally:
                del self.running[record]

        return bool(
            self._on_loop(
                lambda: self.lanes.submit(
                    partition=slot, offset=offset, key=self.key_of[record], handle=offset, work=work
                )
            )
        )

    def _in_flight(self, slot: str) -> list[int]:
        return [offset for offset in self.taken[slot] if offset not in self.gone[slot]]

    @rule(slot=st.sampled_from(SLOTS), key=st.sampled_from(KEYS))
    def take(self, slot: str, key: str) -> None:
        """The next record of a partition."""
        offset = self.next[slot]
        self.next[slot] += 1
        self.key_of[slot, offset] = key
        self.taken[slot].append(offset)
        assert self._offer(slot, offset)

    @precondition(lambda self: any(self._in_flight(slot) for slot in SLOTS))
    @rule(data=st.data())
    def take_again(self, data: Any) -> None:
        """A record in flight is handed out again; it is not worked off twice."""
        slot = data.draw(st.sampled_from([slot for slot in SLOTS if self._in_flight(slot)]))
        assert not self._offer(slot, data.draw(st.sampled_from(self._in_flight(slot))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        """Somebody's work ends, also while the group regroups."""
        record = data.draw(st.sampled_from(sorted(self.running)))
        self._on_loop(self.running[record].set)

    @rule()
    def suspend(self) -> None:
        """The group regroups."""
        self.suspended = True
        self._on_loop(self.lanes.suspend)

    @rule(owned=st.sets(st.sampled_from(SLOTS)))
    def resume(self, owned: set[str]) -> None:
        """It has; what is not ours any more ends, and comes again from its commit when it is."""
        self.suspended = False
        before = {slot: len(self._in_flight(slot)) for slot in SLOTS}
        lost = self._on_loop(lambda: self.lanes.resume(owned))
        for slot in set(SLOTS) - owned:
            assert lost.get(slot, 0) == before[slot]
            self.taken[slot] = list(self.gone[slot])
            self.done -= {(slot, n) for n in range(self.next[slot]) if n not in self.gone[slot]}
            self.next[slot] = len(self.gone[slot])
        assert not set(lost) & owned

    @invariant()
    def rules_hold(self) -> None:
        """In order, one at a time, let go as the partition has them; and all that can run runs."""
        assert self.wrong == []
        assert not self.lanes.failure.done()
        for slot in SLOTS:
            assert self.gone[slot] == list(range(len(self.gone[slot])))
            assert {(slot, offset) for offset in self.gone[slot]} <= self.done
            for key in KEYS:
                job = [n for n in self.taken[slot] if self.key_of[slot, n] == key]
                states = [(slot, n) in self.done for n in job]
                assert states == sorted(states, reverse=True), "one was passed by"
                waits = [n for n in job if (slot, n) not in self.done]
                if waits and not self.suspended:
                    assert (slot, waits[0]) in self.running, "nobody is at it"
            head = self._in_flight(slot)
            assert not head or (slot, head[0]) not in self.done, "done, and held back"
        assert self.lanes.in_flight == sum(len(self._in_flight(slot)) for slot in SLOTS)

    @override
    def teardown(self) -> None:
        """In the end everything is done, in order."""
        self.resume(set(SLOTS))
        while self.running:
            self._on_loop(self.running[min(self.running)].set)
            self.rules_hold()
        assert self.lanes.in_flight == 0
        self.loop.close()


TestLanesLife = LanesLife.TestCase
TestLanesLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
