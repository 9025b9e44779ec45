"""Thousands of simulated schedules of a consumer group break no rule."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from typing_extensions import override

from shared.processing.lanes import Commit, Lanes, Work
from shared.processing.offset_tracker import OffsetTracker
from tests.faults.harness.durations import SEED, long_or
from tests.faults.harness.simulation import BrokenRuleError, VirtualLoop, simulate

pytestmark = pytest.mark.timeout(long_or(long=1800, short=180))
SCHEDULES = long_or(long=100_000, short=2_000)
SHARE = 500  # schedules per task of a process


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """A virtual loop for all schedules of a test."""
    virtual = VirtualLoop()
    yield virtual
    virtual.close()


def _run_schedules(seeds: range) -> Counter[str]:
    """Run these schedules; return the number of events of each kind."""
    counts: Counter[str] = Counter()
    loop = VirtualLoop()
    try:
        for seed in seeds:
            try:
                world = simulate(seed, loop)
            except BrokenRuleError as error:
                raise AssertionError(f"schedule {seed}: {error}") from error
            counts["deaths"] += world.deaths
            counts["rebalances"] += world.rebalances
            counts["records repeated"] += world.repeats
            counts["commits moved back"] += world.went_back
    finally:
        loop.close()
    return counts


def test_no_schedule_breaks_a_rule() -> None:
    """Order per job, commits, bounds and completion; one process per core."""
    start_s = time.monotonic()
    end = SEED + SCHEDULES
    shares = [range(first, min(first + SHARE, end)) for first in range(SEED, end, SHARE)]
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for share in processes.map(_run_schedules, shares):
            counts += share
    took_s = time.monotonic() - start_s
    figures = ", ".join(f"{count} {what}" for what, count in counts.items())
    sys.stdout.write(
        f"{SCHEDULES} schedules from SEGUE_CHAOS_SEED={SEED} in {took_s:.0f} s"
        f" ({SCHEDULES / took_s:.0f}/s): {figures}, rules broken 0\n"
    )

    assert counts["deaths"] > 0
    assert counts["records repeated"] > 0


def test_a_seed_reproduces_its_schedule(loop: VirtualLoop) -> None:
    """Two runs of a seed have the same trace."""
    traces = [simulate(seed, loop).trace.hexdigest() for seed in (1, 2, 1, 2)]

    assert traces[:2] == traces[2:]
    assert traces[0] != traces[1]


class UnorderedTracker(OffsetTracker[int]):
    """A tracker that releases a record when it is complete, whatever precedes it."""

    @override
    def complete(self, partition: Hashable, offset: int) -> list[int]:
        entry = self._partitions[partition].pop(offset, None)
        return [entry.handle] if entry else []


class EarlyCommitLanes(Lanes[int]):
    """Lanes that commit past unfinished records."""

    def __init__(self, commit: Commit[int]) -> None:
        super().__init__(commit)
        self._tracker = UnorderedTracker()


class ParallelLanes(Lanes[int]):
    """Lanes that run the records of a job at once."""

    @override
    async def _run_after(
        self,
        previous: asyncio.Task[None] | None,
        partition: Hashable,
        offset: int,
        work: Work,
    ) -> None:
        await work()
        self._commit_records(partition, self._tracker.complete(partition, offset))


class UncancelledLanes(Lanes[int]):
    """Lanes that keep the records of a lost partition running."""

    @override
    def _cancel_partition(self, partition: Hashable) -> int:
        return 0


@pytest.mark.parametrize("lanes_class", [EarlyCommitLanes, ParallelLanes, UncancelledLanes])
def test_the_simulation_detects_broken_lanes(
    loop: VirtualLoop, lanes_class: type[Lanes[int]]
) -> None:
    """Each defect breaks a rule within 300 schedules."""
    with pytest.raises(BrokenRuleError):
        _simulate_all(range(300), loop, lanes_class)


def _simulate_all(seeds: Iterable[int], loop: VirtualLoop, lanes_class: type[Lanes[int]]) -> None:
    for seed in seeds:
        simulate(seed, loop, lanes_class=lanes_class)
