"""Measures lanes per job against lanes per partition, and their overhead.

The generator mostly waits, so the question is how many waits run concurrently. The same records go
through the same `Lanes`: keyed by job as in production; keyed by partition, as a consumer without
lanes processes them; and, without lanes, one record after the other. The ideal is the duration of
the waits alone. The sequential variant is slow and steady, so it gets a tenth of the jobs; rates
are compared. The overhead of a lane is measured with empty work against one bare task per record.

Units: records per second, bytes. I/O: only the harness's.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.harness import (
    Measurement,
    Probe,
    Report,
    Step,
    Variant,
    compare,
    machine_facts,
    main,
    run_interleaved,
    with_ratios,
)
from shared.processing.lanes import Lanes

JOBS, SCENES, PARTITIONS = 100, 3, 4
JOBS_SEQUENTIAL = 10
WAIT_S = 0.05
QUICK_JOBS, QUICK_SCENES = 2_000, 5
LANES = 10_000
DRAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRecord:
    """The record of one scene of a job."""

    job: str
    partition: int
    offset: int


Key = Callable[[SceneRecord], str]


def by_job(record: SceneRecord) -> str:
    """Return the lane key for one lane per job."""
    return record.job


def by_partition(record: SceneRecord) -> str:
    """Return the lane key for one lane per partition."""
    return str(record.partition)


def log_of(*, jobs: int, scenes: int) -> list[SceneRecord]:
    """Return the records in log order: scene by scene over all jobs."""
    return [
        SceneRecord(
            job=f"job-{number}",
            partition=number % PARTITIONS,
            offset=scene * jobs + number,  # ascending in its partition, with gaps
        )
        for scene in range(scenes)
        for number in range(jobs)
    ]


async def wait() -> None:
    """Wait as for a provider."""
    await asyncio.sleep(WAIT_S)


async def nothing() -> None:
    """Return at once."""


def through_lanes(records: Sequence[SceneRecord], key: Key, work: Step) -> Step:
    """Return a step that processes all records in lanes; every record must be committed."""

    async def run() -> None:
        committed: list[int] = []
        lanes: Lanes[int] = Lanes(lambda _slot, handles: committed.extend(handles))
        submit_all(lanes, records, key, work)
        cancelled = await lanes.drain(DRAIN_S)
        assert not cancelled, "the work takes as long as its waits"
        assert len(committed) == len(records), "every completed record is committed"

    return run


def submit_all(lanes: Lanes[int], records: Sequence[SceneRecord], key: Key, work: Step) -> None:
    """Submit all records to the lanes."""
    for record in records:
        lanes.submit(
            partition=record.partition,
            offset=record.offset,
            key=key(record),
            handle=record.offset,
            work=work,
        )


def one_by_one(count: int) -> Step:
    """Return a step that waits `count` times, one after the other."""

    async def run() -> None:
        for _ in range(count):
            await wait()

    return run


def bare_tasks(count: int) -> Step:
    """Return a step that runs `count` empty asyncio tasks."""

    async def run() -> None:
        tasks = [asyncio.create_task(nothing()) for _ in range(count)]
        await asyncio.wait(tasks)

    return run


async def waiting() -> list[Measurement]:
    """Measure records per second of waiting work, and the share of the ideal."""
    records = log_of(jobs=JOBS, scenes=SCENES)
    few, count = JOBS_SEQUENTIAL * SCENES, len(records)
    variants = [
        Variant(
            name="lane per partition", work=count, run=through_lanes(records, by_partition, wait)
        ),
        Variant(name="lane per job", work=count, run=through_lanes(records, by_job, wait)),
        Variant(name="one after the other", work=few, run=one_by_one(few)),
    ]
    measurements = await compare(variants, unit="records/s")
    ideals = [PARTITIONS / WAIT_S, JOBS / WAIT_S, 1 / WAIT_S]
    shares = [
        measurement.share_of(ideal) for measurement, ideal in zip(measurements, ideals, strict=True)
    ]
    in_partition, in_job, in_turn = measurements
    over_sequential = with_ratios([in_turn, in_job])[1]
    return [in_partition, in_job, over_sequential, in_turn, *shares]


async def cost() -> list[Measurement]:
    """Measure records per second of empty work: the overhead of the lanes."""
    records = log_of(jobs=QUICK_JOBS, scenes=QUICK_SCENES)
    count = len(records)
    variants = [
        Variant(name="no work, bare task per record", work=count, run=bare_tasks(count)),
        Variant(
            name="no work, lane per job", work=count, run=through_lanes(records, by_job, nothing)
        ),
    ]
    return await compare(variants, unit="records/s")


async def memory() -> list[Measurement]:
    """Measure bytes per waiting lane, and what remains after all are done."""
    records = log_of(jobs=LANES, scenes=1)
    left: list[float] = []
    probes: list[Probe] = [
        lambda: tasks_traced(len(records)),
        lambda: lanes_traced(records, left),
    ]
    bare, laned = await run_interleaved(probes)
    held = [
        Measurement(name="waiting bare task", unit="bytes", values=bare),
        Measurement(name=f"waiting lane, of {LANES:,}", unit="bytes", values=laned),
    ]
    after = Measurement(name="the same, done", unit="bytes", values=tuple(left[-len(laned) :]))
    return [*with_ratios(held), after]


async def tasks_traced(count: int) -> float:
    """Return the bytes of a waiting bare task."""
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


async def lanes_traced(records: Sequence[SceneRecord], left: list[float]) -> float:
    """Return the bytes of a waiting lane; append the remaining bytes to `left`."""
    end = asyncio.Event()
    lanes: Lanes[int] = Lanes(lambda _slot, _handles: None)

    async def work() -> None:
        await end.wait()

    with _Traced() as traced:
        submit_all(lanes, records, by_job, work)
        await started()
        held = traced.bytes()
        end.set()
        await lanes.drain(DRAIN_S)
        left.append(traced.bytes() / len(records))
    assert lanes.in_flight == 0, "all work is done"
    return held / len(records)


async def started() -> None:
    """Let every task reach its first wait."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Traced:
    """Traces the memory that is allocated inside and not yet freed."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    @staticmethod
    def bytes() -> int:
        """Return the traced bytes."""
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


async def measure() -> Report:
    """Run all parts."""
    facts = machine_facts()
    parts: list[Callable[[], Awaitable[list[Measurement]]]] = [waiting, cost, memory]
    measurements = [measurement for part in parts for measurement in await part()]
    return Report(name="lanes", measurements=measurements, facts=facts)


if __name__ == "__main__":
    main(measure)
