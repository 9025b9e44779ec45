"""Records what happened in a test as JSON lines; the checker evaluates them.

The kinds of facts, in the order in which they are recorded:

| kind      | source                         | fields                                           |
|-----------|--------------------------------|--------------------------------------------------|
| `wanted`  | the test, when it requests     | job_id, run, scene_count, events, excused        |
| `end`     | the process that is killed     | service, at, how                                 |
| `call`    | the emulator's ledger          | prediction_id, seed, status, is_charged, scene   |
| `publish` | Kafka, every record            | topic, partition, offset, key, event_id, value   |
| `commit`  | Kafka, per group and partition | group, topic, partition, offset                  |
| `object`  | the store, everything in it    | key, sha256, size_bytes, document (of JSON)      |
| `status`  | the client that polls a job    | job_id, run, status                              |
| `row`     | PostgreSQL                     | table, key, values                               |

The recorder reads only external state (HTTP, topics, the store), so it works with any service and
with any provider that has such a ledger.

I/O: the file, HTTP, Kafka, the store.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contract.ids import scene_seed
from shared.storage import ObjectStore
from tests.support.processes import records_of

Fact = dict[str, Any]
ATTEMPTS_MAX = 50  # of one scene; later seeds are not recognised
_HTTP_S = 10.0


def append(path: Path, **fact: Any) -> None:
    """Append one fact in a single write, so that concurrent writers do not mix."""
    line = json.dumps(fact, sort_keys=True).encode() + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def read(path: Path) -> list[Fact]:
    """Return every fact, in the order of the file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recorder:
    """Appends facts to one history."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wanted(
        self,
        job_id: str,
        *,
        scene_count: int,
        run: int = 1,
        events: Sequence[str] = ("segment.generated",),
        excused: str | None = None,
    ) -> None:
        """Record that a run must publish these events; `excused` is a reason why it need not."""
        append(
            self.path,
            kind="wanted",
            job_id=job_id,
            run=run,
            scene_count=scene_count,
            events=list(events),
            excused=excused,
        )

    def status(self, job_id: str, run: int, status: str) -> None:
        """Record a status that the api returned."""
        append(self.path, kind="status", job_id=job_id, run=run, status=status)

    def row(self, table: str, key: str, values: Fact) -> None:
        """Record a row of the database."""
        append(self.path, kind="row", table=table, key=key, values=values)

    async def calls(self, origin: str) -> None:
        """Record the ledger of the emulator at `origin`, each call with the scene of its seed."""
        scenes = dict(_seeds(read(self.path)))
        async with httpx.AsyncClient(timeout=_HTTP_S) as client:
            ledger = (await client.get(f"{origin}/_fake/ledger")).raise_for_status().json()
        for entry in ledger["entries"]:
            append(
                self.path,
                kind="call",
                prediction_id=entry["id"],
                seed=entry["seed"],
                status=entry["status"],
                is_charged=entry["is_charged"],
                **scenes.get(entry["seed"], {"job_id": None}),
            )

    async def publishes(self, bootstrap: str, topics: Iterable[str], *, prefix: str) -> None:
        """Record every record of these topics (without prefix)."""
        for record in await records_of(bootstrap, *topics, prefix=prefix):
            append(
                self.path,
                kind="publish",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=(record.key or b"").decode(),
                event_id=record.header("ce_id"),
                value=json.loads(record.value or b"null"),
            )

    async def commits(self, bootstrap: str, group: str, topic: str, *, prefix: str) -> None:
        """Record the committed offsets of a group on a topic (without prefix)."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=prefix + group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            for partition in await partitions_of(bootstrap, prefix + topic):
                append(
                    self.path,
                    kind="commit",
                    group=group,
                    topic=topic,
                    partition=partition.partition,
                    offset=await consumer.committed(partition),
                )
        finally:
            await consumer.stop()

    async def objects(self, store: ObjectStore) -> None:
        """Record every object of the store."""
        async for stat in store.list_objects(""):
            data = await store.get(stat.key)
            append(
                self.path,
                kind="object",
                key=stat.key,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                document=json.loads(data) if stat.key.endswith(".json") else None,
            )


async def partitions_of(bootstrap: str, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
    finally:
        await consumer.stop()
    assert partitions, f"topic {topic} not found"
    return partitions


def _seeds(facts: Iterable[Fact]) -> Iterable[tuple[int, Fact]]:
    """Yield each seed of the requested scenes with its scene."""
    for fact in facts:
        if fact["kind"] != "wanted":
            continue
        for scene in range(fact["scene_count"]):
            for attempt in range(1, ATTEMPTS_MAX + 1):
                seed = scene_seed(fact["job_id"], fact["run"], scene, attempt)
                yield (
                    seed,
                    {
                        "job_id": fact["job_id"],
                        "run": fact["run"],
                        "scene_index": scene,
                        "attempt": attempt,
                    },
                )
