"""History: what happened, one JSON line after the other; nobody judges here.

Everything is written down as it was found, in this order of kinds:

| kind      | who says it                    | fields                                           |
|-----------|--------------------------------|--------------------------------------------------|
| `wanted`  | the test, when it asks         | job_id, run, scene_count, events, excused        |
| `end`     | the process that dies          | service, at, how                                 |
| `call`    | the fake Replicate's ledger    | prediction_id, seed, status, is_charged, whose   |
| `publish` | Kafka, every record            | topic, partition, offset, key, event_id, value   |
| `commit`  | Kafka, per group and partition | group, topic, partition, offset                  |
| `object`  | the store, everything in it    | key, sha256, size_bytes, said (of JSON)          |
| `status`  | whoever follows a job          | job_id, run, status                              |
| `row`     | PostgreSQL                     | table, key, values                               |

The recorder reads the outside world only: an HTTP page, a topic, a store. So it works beside
any service and any provider that keeps such a ledger.

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
ATTEMPTS_MAX = 50  # of one scene: seeds beyond are of nobody
_HTTP_S = 10.0


def append(path: Path, **fact: Any) -> None:
    """Write one fact; whole even if the process dies right after, whoever else writes."""
    line = json.dumps(fact, sort_keys=True).encode() + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def read(path: Path) -> list[Fact]:
    """Every fact, in the order in which they were written."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recorder:
    """Writes what the world says into one history."""

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
        """A run must bring these events; `excused` says why it need not."""
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
        """A follower was told this."""
        append(self.path, kind="status", job_id=job_id, run=run, status=status)

    def row(self, table: str, key: str, values: Fact) -> None:
        """A row as it stands at the end."""
        append(self.path, kind="row", table=table, key=key, values=values)

    async def calls(self, origin: str) -> None:
        """The ledger of the fake Replicate at `origin`; each call with the scene of its seed."""
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
        """Every record of these topics (no prefix)."""
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
        """What a group committed on a topic (names without prefix)."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=prefix + group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            for place in await places_of(bootstrap, prefix + topic):
                append(
                    self.path,
                    kind="commit",
                    group=group,
                    topic=topic,
                    partition=place.partition,
                    offset=await consumer.committed(place),
                )
        finally:
            await consumer.stop()

    async def objects(self, store: ObjectStore) -> None:
        """Everything in the store."""
        async for stat in store.list_objects(""):
            data = await store.get(stat.key)
            append(
                self.path,
                kind="object",
                key=stat.key,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                said=json.loads(data) if stat.key.endswith(".json") else None,
            )


async def places_of(bootstrap: str, topic: str) -> list[TopicPartition]:
    """The partitions of a topic; a consumer that has not subscribed to it knows of none."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        places = sorted(consumer.assignment())
    finally:
        await consumer.stop()
    assert places, f"{topic} is not there"
    return places


def _seeds(facts: Iterable[Fact]) -> Iterable[tuple[int, Fact]]:
    """Whose each seed is, of everything that was wanted."""
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
