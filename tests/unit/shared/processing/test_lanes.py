"""Lanes: one job strictly in order, many at once; nothing passes what did not finish."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.processing.lanes import Lanes


@dataclass
class Works:
    """Works that end when told to; what started, what ended, and what was let go."""

    started: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    may_end: dict[int, asyncio.Event] = field(default_factory=dict)

    def release(self, _slot: Hashable, handles: list[int]) -> None:
        """As a consumer would commit."""
        self.released.extend(handles)

    def offer(self, lanes: Lanes[int], offset: int, *, key: str = "job", slot: str = "p0") -> bool:
        """A record whose work ends with `may_end[offset]`."""
        self.may_end.setdefault(offset, asyncio.Event())

        async def work() -> None:
            self.started.append(offset)
            await self.may_end[offset].wait()
            self.ended.append(offset)

        return lanes.submit(partition=slot, offset=offset, key=key, handle=offset, work=work)


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_job_is_worked_off_one_record_at_a_time() -> None:
    """The second waits for the end of the first."""
    works = Works()
    lanes = Lanes(works.release)
    works.offer(lanes, 0)
    works.offer(lanes, 1)
    await settle()
    assert works.started == [0]

    works.may_end[1].set()
    works.may_end[0].set()
    await settle()
    assert works.ended == works.released == [0, 1]
    assert lanes.in_flight == 0


async def test_jobs_run_side_by_side_and_are_let_go_in_offset_order() -> None:
    """A slow job holds nobody's work, only the commit of its partition."""
    works = Works()
    lanes = Lanes(works.release)
    for offset, key in enumerate(["slow", "quick", "quicker"]):
        works.offer(lanes, offset, key=key)
        works.may_end[offset].set()
    works.may_end[0].clear()
    await settle()
    assert works.ended == [1, 2]
    assert works.released == []

    works.may_end[0].set()
    await settle()
    assert works.released == [0, 1, 2]


async def test_a_redelivered_record_is_not_run_again() -> None:
    """It joins the work that runs for it, and is let go once."""
    works = Works()
    lanes = Lanes(works.release)
    assert works.offer(lanes, 0)
    await settle()
    assert not works.offer(lanes, 0)
    works.may_end[0].set()
    await settle()

    assert works.started == works.released == [0]


async def test_suspended_lanes_start_nothing() -> None:
    """From revoke to assign nobody knows whose the records are."""
    works = Works()
    lanes = Lanes(works.release)
    lanes.suspend()
    works.offer(lanes, 0)
    await settle()
    assert works.started == []

    assert lanes.resume({"p0"}) == {}
    await settle()
    assert works.started == [0]
    await lanes.drain(0)


async def test_work_under_way_stops_at_its_next_gate() -> None:
    """What began before the revoke does not reach outside after it."""
    lanes: Lanes[int] = Lanes(lambda _slot, _handles: None)
    go_on = asyncio.Event()
    passed: list[str] = []

    async def work() -> None:
        passed.append("begun")
        await go_on.wait()
        await lanes.wait_until_owned()
        passed.append("outside")

    lanes.submit(partition="p0", offset=0, key="a", handle=0, work=work)
    await settle()
    lanes.suspend()
    go_on.set()
    await settle()
    assert passed == ["begun"]

    lanes.resume({"p0"})
    await settle()
    assert passed == ["begun", "outside"]


async def test_what_went_elsewhere_is_cancelled_with_everything_behind_it() -> None:
    """Its records are somebody else's; what stayed goes on."""
    works = Works()
    lanes = Lanes(works.release)
    works.offer(lanes, 0, slot="lost")
    works.offer(lanes, 1, slot="lost")
    works.offer(lanes, 2, slot="kept")
    await settle()
    lanes.suspend()

    assert lanes.resume({"kept"}) == {"lost": 2}
    for event in works.may_end.values():
        event.set()
    await settle()
    assert works.ended == works.released == [2]
    assert lanes.in_flight == 0


async def test_a_partition_that_comes_back_is_worked_off_from_its_commit() -> None:
    """Lost and found again: its records run anew."""
    works = Works()
    lanes = Lanes(works.release)
    works.offer(lanes, 0)
    await settle()
    lanes.resume(set())
    await settle()
    lanes.resume({"p0"})
    assert works.offer(lanes, 0)
    works.may_end[0].set()
    await settle()

    assert works.started == [0, 0]
    assert works.ended == works.released == [0]


async def test_a_lane_that_came_back_does_not_inherit_its_own_cancellation() -> None:
    """Even if the work from before is still clearing up when the partition is back."""
    works = Works()
    lanes = Lanes(works.release)
    cleared_up = asyncio.Event()

    async def slow_to_die() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleared_up.wait()

    lanes.submit(partition="p0", offset=0, key="job", handle=0, work=slow_to_die)
    await settle()
    lanes.resume(set())
    await settle()
    works.offer(lanes, 0)
    works.may_end[0].set()
    await settle()
    cleared_up.set()
    await settle()

    assert works.released == [0]


async def test_an_error_breaks_the_lanes_and_nothing_passes_it() -> None:
    """Whoever drives them hears of it; the record behind never starts."""
    works = Works()
    lanes = Lanes(works.release)

    async def fails() -> None:
        raise RuntimeError("a bug")

    lanes.submit(partition="p0", offset=0, key="job", handle=0, work=fails)
    works.offer(lanes, 1)
    await settle()

    assert works.started == works.released == []
    with pytest.raises(RuntimeError, match="a bug"):
        lanes.failure.result()


async def test_a_drain_waits_for_what_runs_then_cancels_the_rest() -> None:
    """What was cancelled is not let go: it comes again after the restart."""
    works = Works()
    lanes = Lanes(works.release)
    works.offer(lanes, 0, key="ends")
    works.offer(lanes, 1, key="hangs")
    await settle()
    works.may_end[0].set()

    assert await lanes.drain(0.01) == 1
    assert works.released == [0]
    assert await lanes.drain(0.01) == 0


async def test_room_is_there_when_enough_was_let_go() -> None:
    """A consumer waits here instead of taking more than it may."""
    works = Works()
    lanes = Lanes(works.release)
    for offset in range(2):
        works.offer(lanes, offset, key=str(offset))
    waiting = asyncio.create_task(lanes.wait_for_capacity(2))
    await settle()
    assert not waiting.done()

    works.may_end[0].set()
    await settle()
    assert waiting.done()
    await lanes.drain(0)


# --- any schedule -----------------------------------------------------------------------------

_records = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 4)), max_size=15
)
_steps = st.lists(
    st.sampled_from(["turn", "turn", "suspend", "keep both", "keep a", "redeliver"]), max_size=15
)


@settings(max_examples=150, deadline=None)
@given(records=_records, steps=_steps)
def test_any_schedule_keeps_the_order_of_each_job(
    records: list[tuple[str, str, int]], steps: list[str]
) -> None:
    """Random jobs and lengths, with rebalances and redeliveries at random moments."""
    asyncio.run(_live(records, steps))


async def _live(records: list[tuple[str, str, int]], steps: list[str]) -> None:
    life = Life(records)
    for step in [*steps, "keep both"]:
        await life.step(step)
    await life.lanes.drain(5)

    assert not life.lanes.failure.done()
    for slot in ("a", "b"):
        released = life.released[slot]
        assert released == sorted(set(released)), "let go once, in offset order"
        assert set(released) <= {offset for _, _, offset in life.ended}, "let go unfinished"
        for key in "xyz":
            of_lane = [offset for s, k, offset in life.ended if (s, k) == (slot, key)]
            assert of_lane == sorted(set(of_lane)), "a job's records in order, each once"
    everything_of_a = [n for n in range(life.offered) if records[n][0] == "a"]
    assert life.released["a"] == everything_of_a, "a partition that stayed is worked off whole"


class Life:
    """A consumer's life with two partitions: `a` is kept throughout, `b` may be lost."""

    def __init__(self, records: list[tuple[str, str, int]]) -> None:
        self.records = records
        self.offered = 0
        self.owned = {"a", "b"}
        self.ended: list[tuple[str, str, int]] = []
        self.released: dict[Hashable, list[int]] = {"a": [], "b": []}
        self.running: set[tuple[str, str]] = set()
        self.lanes: Lanes[int] = Lanes(lambda slot, handles: self.released[slot].extend(handles))

    async def step(self, step: str) -> None:
        """Something happens, and the next record comes if its partition is ours."""
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "suspend":
            self.lanes.suspend()
        elif step == "redeliver":
            for offset in range(self.offered):
                if self.records[offset][0] == "a" and offset not in self.released["a"]:
                    self.offer(offset)
        else:
            self.owned = {"a", "b"} if step == "keep both" else {"a"}
            self.lanes.resume(self.owned)
        if self.offered < len(self.records) and self.records[self.offered][0] in self.owned:
            self.offer(self.offered)
            self.offered += 1

    def offer(self, offset: int) -> None:
        """A record whose work takes a few turns of the loop."""
        slot, key, turns = self.records[offset]

        async def work() -> None:
            assert (slot, key) not in self.running, "two records of one job at once"
            self.running.add((slot, key))
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                self.ended.append((slot, key, offset))
            finally:
                self.running.discard((slot, key))

        self.lanes.submit(partition=slot, offset=offset, key=key, handle=offset, work=work)
