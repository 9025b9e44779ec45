"""Lanes run one job strictly in order, many jobs concurrently, and skip no unfinished record."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.processing.lanes import Lanes
from shared.processing.offset_tracker import PartitionPosition


@dataclass
class ControlledWork:
    """Work that ends when its test allows it; records what started, ended and was committed."""

    started: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    may_end: dict[int, asyncio.Event] = field(default_factory=dict)

    def commit(self, _partition: Hashable, handles: list[int]) -> None:
        """Record a commit."""
        self.committed.extend(handles)

    def submit(
        self, lanes: Lanes[int], offset: int, *, key: str = "job", partition: str = "p0"
    ) -> bool:
        """Submit a record whose work ends with `may_end[offset]`."""
        self.may_end.setdefault(offset, asyncio.Event())

        async def work() -> None:
            self.started.append(offset)
            await self.may_end[offset].wait()
            self.ended.append(offset)

        return lanes.submit(partition=partition, offset=offset, key=key, handle=offset, work=work)


async def settle() -> None:
    """Run every task that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_records_of_one_job_run_one_after_the_other() -> None:
    """The second waits for the end of the first."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    works.submit(lanes, 1)
    await settle()
    assert works.started == [0]

    works.may_end[1].set()
    works.may_end[0].set()
    await settle()
    assert works.ended == works.committed == [0, 1]
    assert lanes.in_flight == 0


async def test_jobs_run_concurrently_and_are_committed_in_offset_order() -> None:
    """A slow job delays only the commit of its partition, no other work."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    for offset, key in enumerate(["slow", "quick", "quicker"]):
        works.submit(lanes, offset, key=key)
        works.may_end[offset].set()
    works.may_end[0].clear()
    await settle()
    assert works.ended == [1, 2]
    assert works.committed == []

    works.may_end[0].set()
    await settle()
    assert works.committed == [0, 1, 2]


async def test_a_redelivered_record_does_not_run_again() -> None:
    """It keeps its running work and is committed once."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    assert works.submit(lanes, 0)
    await settle()
    assert not works.submit(lanes, 0)
    works.may_end[0].set()
    await settle()

    assert works.started == works.committed == [0]


async def test_suspended_lanes_start_no_work() -> None:
    """During a rebalance the owner of a record is unknown."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    lanes.suspend()
    works.submit(lanes, 0)
    await settle()
    assert works.started == []

    assert lanes.resume({"p0"}) == {}
    await settle()
    assert works.started == [0]
    await lanes.drain(0)


async def test_running_work_stops_at_its_next_wait_until_owned() -> None:
    """Work that started before a rebalance has no outside effect during it."""
    lanes: Lanes[int] = Lanes(lambda _partition, _handles: None)
    may_continue = asyncio.Event()
    steps: list[str] = []

    async def work() -> None:
        steps.append("started")
        await may_continue.wait()
        await lanes.wait_until_owned()
        steps.append("published")

    lanes.submit(partition="p0", offset=0, key="a", handle=0, work=work)
    await settle()
    lanes.suspend()
    may_continue.set()
    await settle()
    assert steps == ["started"]

    lanes.resume({"p0"})
    await settle()
    assert steps == ["started", "published"]


async def test_a_lost_partition_is_cancelled_with_all_its_records() -> None:
    """Another consumer owns them; the other partition continues."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0, partition="lost")
    works.submit(lanes, 1, partition="lost")
    works.submit(lanes, 2, partition="kept")
    await settle()
    lanes.suspend()

    assert lanes.resume({"kept"}) == {"lost": 2}
    for event in works.may_end.values():
        event.set()
    await settle()
    assert works.ended == works.committed == [2]
    assert lanes.in_flight == 0


async def test_a_partition_that_is_assigned_again_restarts_from_its_commit() -> None:
    """Its uncommitted records run again."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    await settle()
    lanes.resume(set())
    await settle()
    lanes.resume({"p0"})
    assert works.submit(lanes, 0)
    works.may_end[0].set()
    await settle()

    assert works.started == [0, 0]
    assert works.ended == works.committed == [0]


async def test_a_lane_of_a_returned_partition_is_not_cancelled_by_its_old_work() -> None:
    """Even if the old work is still cleaning up when the partition returns."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    cleaned_up = asyncio.Event()

    async def slow_to_cancel() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned_up.wait()

    lanes.submit(partition="p0", offset=0, key="job", handle=0, work=slow_to_cancel)
    await settle()
    lanes.resume(set())
    await settle()
    works.submit(lanes, 0)
    works.may_end[0].set()
    await settle()
    cleaned_up.set()
    await settle()

    assert works.committed == [0]


async def test_an_error_of_the_work_fails_the_lanes() -> None:
    """The consumer gets it from `failure`; the next record of the job never starts."""
    works = ControlledWork()
    lanes = Lanes(works.commit)

    async def fails() -> None:
        raise RuntimeError("a bug")

    lanes.submit(partition="p0", offset=0, key="job", handle=0, work=fails)
    works.submit(lanes, 1)
    await settle()

    assert works.started == works.committed == []
    with pytest.raises(RuntimeError, match="a bug"):
        lanes.failure.result()


async def test_drain_waits_for_running_work_then_cancels_the_rest() -> None:
    """Cancelled work is not committed: its record is read again after the restart."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0, key="ends")
    works.submit(lanes, 1, key="hangs")
    await settle()
    works.may_end[0].set()

    assert await lanes.drain(0.01) == 1
    assert works.committed == [0]
    assert await lanes.drain(0.01) == 0


async def test_wait_for_capacity_returns_when_enough_records_were_committed() -> None:
    """A consumer waits here before it submits more."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    for offset in range(2):
        works.submit(lanes, offset, key=str(offset))
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
    st.sampled_from(["yield", "yield", "suspend", "assign both", "assign a", "redeliver"]),
    max_size=15,
)


@settings(max_examples=150, deadline=None)
@given(records=_records, steps=_steps)
def test_any_schedule_keeps_the_order_of_each_job(
    records: list[tuple[str, str, int]], steps: list[str]
) -> None:
    """Random jobs and durations, with rebalances and redeliveries at random moments."""
    asyncio.run(_run_schedule(records, steps))


async def _run_schedule(records: list[tuple[str, str, int]], steps: list[str]) -> None:
    schedule = Schedule(records)
    for step in [*steps, "assign both"]:
        await schedule.step(step)
    await schedule.lanes.drain(5)

    assert not schedule.lanes.failure.done()
    for partition in ("a", "b"):
        committed = schedule.committed[partition]
        assert committed == sorted(set(committed)), "committed once, in offset order"
        assert set(committed) <= {offset for _, _, offset in schedule.ended}, "unfinished"
        for key in "xyz":
            lane = [offset for p, k, offset in schedule.ended if (p, k) == (partition, key)]
            assert lane == sorted(set(lane)), "a job's records in order, each once"
    all_of_a = [offset for offset in range(schedule.submitted) if records[offset][0] == "a"]
    assert schedule.committed["a"] == all_of_a, "a partition that stays is processed completely"


class Schedule:
    """A consumer with two partitions: `a` is owned throughout, `b` may be lost."""

    def __init__(self, records: list[tuple[str, str, int]]) -> None:
        self.records = records
        self.submitted = 0
        self.owned = {"a", "b"}
        self.ended: list[tuple[str, str, int]] = []
        self.committed: dict[Hashable, list[int]] = {"a": [], "b": []}
        self.running: set[tuple[str, str]] = set()
        self.lanes: Lanes[int] = Lanes(
            lambda partition, handles: self.committed[partition].extend(handles)
        )

    async def step(self, step: str) -> None:
        """Run one step; then receive the next record if its partition is owned."""
        if step == "yield":
            await asyncio.sleep(0)
        elif step == "suspend":
            self.lanes.suspend()
        elif step == "redeliver":
            for offset in range(self.submitted):
                if self.records[offset][0] == "a" and offset not in self.committed["a"]:
                    self.submit(offset)
        else:
            self.owned = {"a", "b"} if step == "assign both" else {"a"}
            self.lanes.resume(self.owned)
        if self.submitted < len(self.records) and self.records[self.submitted][0] in self.owned:
            self.submit(self.submitted)
            self.submitted += 1

    def submit(self, offset: int) -> None:
        """Submit a record whose work takes a few iterations of the event loop."""
        partition, key, iterations = self.records[offset]

        async def work() -> None:
            assert (partition, key) not in self.running, "two records of one job concurrently"
            self.running.add((partition, key))
            try:
                for _ in range(iterations):
                    await asyncio.sleep(0)
                self.ended.append((partition, key, offset))
            finally:
                self.running.discard((partition, key))

        self.lanes.submit(partition=partition, offset=offset, key=key, handle=offset, work=work)


async def test_lanes_count_their_records_and_return_the_positions() -> None:
    """Two records of one job are one lane."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    works.submit(lanes, 1)
    works.submit(lanes, 4, key="other job")

    assert lanes.figures() == {"lanes": 2, "records_in_flight": 3}
    assert lanes.positions() == {
        "p0": PartitionPosition(next_offset=5, last_timestamp_s=None, oldest_offset=0)
    }
    await lanes.drain(0)


async def test_lanes_forget_tasks_that_are_done() -> None:
    """Otherwise a long-lived process would keep every task."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    works.may_end[0].set()
    await settle()

    assert lanes._tasks == {"p0": {}}
    assert lanes.active == 0


async def test_work_that_ends_or_is_cancelled_is_no_failure() -> None:
    """Only an error stops the consumer."""
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    works.submit(lanes, 1, key="other job")
    works.may_end[0].set()
    await settle()
    await lanes.drain(0)

    assert works.ended == [0]
    assert problems == []
    assert not lanes.failure.done()


async def test_a_partition_that_begins_again_runs_new_records_with_old_offsets() -> None:
    """Its topic was created again; other partitions continue."""
    works = ControlledWork()
    lanes = Lanes(works.commit)
    works.submit(lanes, 0)
    works.submit(lanes, 1)
    works.submit(lanes, 2, partition="p1")
    await settle()

    assert lanes.restart("p0") == 2
    assert works.submit(lanes, 0), "a new record, not the one in flight"
    for offset in (0, 2):
        works.may_end[offset].set()
    await settle()
    assert works.started == [0, 2, 0]
    assert sorted(works.ended) == sorted(works.committed) == [0, 2]
