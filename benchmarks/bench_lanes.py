"""Lanes: what one lane per job brings over one lane per partition, and what a lane costs.

Waiting is most of what the generator does, so the question is how many waits run side by side.
The same records go through the same `Lanes`: keyed by job as in production, and keyed by their
partition, which is how a consumer without lanes works its partitions off; and, without lanes,
one record after the other. The ideal is what the waits alone would take.

One after the other is slow and steady, so it gets a tenth of the jobs; rates are compared.
What a lane costs is measured with work that does nothing, against one bare task per record.

Units: records per second, bytes. I/O: none but the harness's.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.harness import (
    Figure,
    Probe,
    Report,
    Step,
    Way,
    against_first,
    compare,
    machine,
    main,
    take_turns,
)
from shared.processing.lanes import Lanes

JOBS, SCENES, PARTITIONS = 100, 3, 4
JOBS_SEQUENTIAL = 10
WAIT_S = 0.05
QUICK_JOBS, QUICK_SCENES = 2_000, 5
LANES = 10_000
DRAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A record: one scene of a job, in its partition."""

    job: str
    partition: int
    offset: int


Key = Callable[[Told], str]


def by_job(record: Told) -> str:
    """A lane per job."""
    return record.job


def by_partition(record: Told) -> str:
    """A lane per partition."""
    return str(record.partition)


def log_of(*, jobs: int, scenes: int) -> list[Told]:
    """The records as they are read: all first scenes, all second ones, …; jobs dealt out."""
    return [
        Told(
            job=f"job-{number}",
            partition=number % PARTITIONS,
            offset=scene * jobs + number,  # rising within its partition, with holes
        )
        for scene in range(scenes)
        for number in range(jobs)
    ]


async def wait() -> None:
    """Work that waits, as for a provider."""
    await asyncio.sleep(WAIT_S)


async def nothing() -> None:
    """Work that is over at once."""


def through_lanes(records: Sequence[Told], key: Key, work: Step) -> Step:
    """Works all records off in lanes; every one must have been let go at the end."""

    async def run() -> None:
        gone: list[int] = []
        lanes: Lanes[int] = Lanes(lambda _slot, handles: gone.extend(handles))
        offer(lanes, records, key, work)
        cancelled = await lanes.drain(DRAIN_S)
        assert not cancelled, "the work takes no longer than its waits"
        assert len(gone) == len(records), "what is done is let go"

    return run


def offer(lanes: Lanes[int], records: Sequence[Told], key: Key, work: Step) -> None:
    """Give all records to the lanes."""
    for record in records:
        lanes.submit(
            partition=record.partition,
            offset=record.offset,
            key=key(record),
            handle=record.offset,
            work=work,
        )


def one_by_one(count: int) -> Step:
    """Waits `count` times, one after the other."""

    async def run() -> None:
        for _ in range(count):
            await wait()

    return run


def bare_tasks(count: int) -> Step:
    """What asyncio itself takes for `count` tasks that do nothing."""

    async def run() -> None:
        tasks = [asyncio.create_task(nothing()) for _ in range(count)]
        await asyncio.wait(tasks)

    return run


async def waiting() -> list[Figure]:
    """Records per second where work is waiting, and how near that is to the ideal."""
    records = log_of(jobs=JOBS, scenes=SCENES)
    few, count = JOBS_SEQUENTIAL * SCENES, len(records)
    ways = [
        Way(name="lane per partition", work=count, run=through_lanes(records, by_partition, wait)),
        Way(name="lane per job", work=count, run=through_lanes(records, by_job, wait)),
        Way(name="one after the other", work=few, run=one_by_one(few)),
    ]
    figures = await compare(ways, unit="records/s")
    ideals = [PARTITIONS / WAIT_S, JOBS / WAIT_S, 1 / WAIT_S]
    shares = [figure.share_of(ideal) for figure, ideal in zip(figures, ideals, strict=True)]
    in_partition, in_job, in_turn = figures
    over_sequential = against_first([in_turn, in_job])[1]
    return [in_partition, in_job, over_sequential, in_turn, *shares]


async def cost() -> list[Figure]:
    """Records per second where work is nothing: all of the time is the lanes' own."""
    records = log_of(jobs=QUICK_JOBS, scenes=QUICK_SCENES)
    count = len(records)
    ways = [
        Way(name="no work, bare task per record", work=count, run=bare_tasks(count)),
        Way(name="no work, lane per job", work=count, run=through_lanes(records, by_job, nothing)),
    ]
    return await compare(ways, unit="records/s")


async def memory() -> list[Figure]:
    """Bytes per lane whose record waits, and what is left when all are done."""
    records = log_of(jobs=LANES, scenes=1)
    left: list[float] = []
    probes: list[Probe] = [
        lambda: tasks_traced(len(records)),
        lambda: lanes_traced(records, left),
    ]
    bare, laned = await take_turns(probes)
    held = [
        Figure(name="waiting bare task", unit="bytes", values=bare),
        Figure(name=f"waiting lane, of {LANES:,}", unit="bytes", values=laned),
    ]
    after = Figure(name="the same, done", unit="bytes", values=tuple(left[-len(laned) :]))
    return [*against_first(held), after]


async def tasks_traced(count: int) -> float:
    """Bytes of a bare task that waits."""
    end, tasks = asyncio.Event(), []

    async def work() -> None:
        await end.wait()

    with _Traced() as traced:
        tasks = [asyncio.create_task(work()) for _ in range(count)]
        await started()
        held = traced.bytes()
    end.set()
    await asyncio.wait(tasks, timeout=DRAIN_S)
    return held / count


async def lanes_traced(records: Sequence[Told], left: list[float]) -> float:
    """Bytes of a lane whose work waits; those that are left of it at the end go to `left`."""
    end = asyncio.Event()
    lanes: Lanes[int] = Lanes(lambda _slot, _handles: None)

    async def work() -> None:
        await end.wait()

    with _Traced() as traced:
        offer(lanes, records, by_job, work)
        await started()
        held = traced.bytes()
        end.set()
        await lanes.drain(DRAIN_S)
        left.append(traced.bytes() / len(records))
    assert lanes.in_flight == 0, "all work is done"
    return held / len(records)


async def started() -> None:
    """Let every task come to its first wait."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Traced:
    """What was allocated since it was entered, and is still held."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    @staticmethod
    def bytes() -> int:
        """So many, now."""
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


async def measure() -> Report:
    """All of it."""
    facts = machine()
    parts: list[Callable[[], Awaitable[list[Figure]]]] = [waiting, cost, memory]
    figures = [figure for part in parts for figure in await part()]
    return Report(name="lanes", figures=figures, facts=facts)


if __name__ == "__main__":
    main(measure)
