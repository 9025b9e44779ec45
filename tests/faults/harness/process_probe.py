"""Observe processes through /proc, and results on the topics.

I/O: `/proc`, Kafka.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from shared.kafka.consumer import record_of
from tests.support.forked_sandbox import is_sandbox_server
from tests.support.processes import eventually, value_of

RESULT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """A record of a result, a failure or a dead letter."""

    topic: str
    value: dict[str, Any]
    at_ms: int


@dataclass
class ResultConsumer:
    """Reads topics from the beginning."""

    consumer: AIOKafkaConsumer
    prefix: str
    records: list[ResultRecord] = field(default_factory=list)

    async def first(self, job_id: str, run: int, *, within_s: float = RESULT_S) -> ResultRecord:
        """Wait for the first record of a run; return it."""

        async def poll() -> ResultRecord | None:
            await self._consume()
            return next(iter(self.of(job_id, run)), None)

        return await eventually(poll, within_s=within_s, what=f"a result of {job_id}/{run}")

    def of(self, job_id: str, run: int) -> list[ResultRecord]:
        """Return the records of a run that were read so far."""
        return [r for r in self.records if (r.value["job_id"], r.value.get("run")) == (job_id, run)]

    async def _consume(self) -> None:
        for polled in (await self.consumer.getmany(timeout_ms=200)).values():
            for raw in polled:
                record = record_of(raw, prefix=self.prefix)
                assert record.timestamp_ms is not None, "the broker sets the timestamp"
                self.records.append(
                    ResultRecord(
                        topic=record.topic, value=value_of(record), at_ms=record.timestamp_ms
                    )
                )


@asynccontextmanager
async def result_consumer(
    bootstrap: str, topics: Sequence[str], *, prefix: str
) -> AsyncIterator[ResultConsumer]:
    """Start a consumer of these topics."""
    consumer = AIOKafkaConsumer(
        *(prefix + topic for topic in topics),
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        yield ResultConsumer(consumer, prefix)
    finally:
        await consumer.stop()


def children(pid: int) -> dict[int, str]:
    """Return the states of a process's children by process id; `Z` is a zombie."""
    states: dict[int, str] = {}
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            try:
                stat = Path(f"/proc/{child}/stat").read_text()
            except FileNotFoundError:
                continue
            states[int(child)] = stat.rpartition(")")[2].split()[0]
    return states


def working_children(pid: int) -> set[int]:
    """Return the children of a process that work: without the idle server of its sandbox."""
    working: set[int] = set()
    for child in children(pid):
        try:
            is_server = is_sandbox_server(child)
        except FileNotFoundError:
            continue
        working |= set(children(child)) if is_server else {child}
    return working


def peak_mib(pid: int) -> int:
    """Return the peak resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def program_of(pid: int) -> str:
    """Return the path of the program that a process executes."""
    return str(Path(f"/proc/{pid}/exe").readlink())


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
