"""Watching: processes seen from outside, and what is said on the log meanwhile.

I/O: `/proc`, Kafka.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from shared.kafka.consumer import record_of
from tests.support.processes import eventually, value_of

HEARD_S = 120.0


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """One record of a result or a failure."""

    topic: str
    value: dict[str, Any]
    at_ms: int


@dataclass
class ResultConsumer:
    """Hears topics from their beginning."""

    consumer: AIOKafkaConsumer
    prefix: str
    records: list[ResultRecord] = field(default_factory=list)

    async def first(self, job_id: str, run: int, *, within_s: float = HEARD_S) -> ResultRecord:
        """What is said of a run, the first of it."""

        async def look() -> ResultRecord | None:
            await self._listen()
            return next(iter(self.of(job_id, run)), None)

        return await eventually(look, within_s=within_s, what=f"news of {job_id}/{run}")

    def of(self, job_id: str, run: int) -> list[ResultRecord]:
        """Everything heard of a run so far."""
        return [s for s in self.records if (s.value["job_id"], s.value.get("run")) == (job_id, run)]

    async def _listen(self) -> None:
        for polled in (await self.consumer.getmany(timeout_ms=200)).values():
            for raw in polled:
                record = record_of(raw, prefix=self.prefix)
                assert record.timestamp_ms is not None, "brokers stamp every record"
                self.records.append(
                    ResultRecord(
                        topic=record.topic, value=value_of(record), at_ms=record.timestamp_ms
                    )
                )


@asynccontextmanager
async def result_consumer(
    bootstrap: str, topics: Sequence[str], *, prefix: str
) -> AsyncIterator[ResultConsumer]:
    """An ear for these topics."""
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
    """The children of a process, dead ones too; each with its state, `Z` of a zombie."""
    found: dict[int, str] = {}
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            try:
                stat = Path(f"/proc/{child}/stat").read_text()
            except FileNotFoundError:
                continue
            found[int(child)] = stat.rpartition(")")[2].split()[0]
    return found


def peak_mib(pid: int) -> int:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def program_of(pid: int) -> str:
    """What runs in a process."""
    return str(Path(f"/proc/{pid}/exe").readlink())


def is_there(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
