"""Measures the projection in batches against one transaction per event.

The api's `Applier` applies the same events to a real PostgreSQL with durable commits: in batches,
as the projection consumer polls them, and with one transaction per event. The requests of all
scenes are applied before; the measured events are their segments, the most frequent event.

Units: events per second. I/O: a PostgreSQL server in a temporary folder.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import SecretStr

from benchmarks.harness import Report, Variant, compare, machine_facts, main
from embedded.servers.postgres import EmbeddedPostgres
from services.api.database import Database, offsets
from services.api.database.migrate import migrate
from services.api.projection.apply_batch import Applier, Batch
from services.api.settings import ApiSettings, DatabaseSettings
from shared.clock import SystemClock
from shared.contract.events import Event, Origin, SceneRequested, SegmentGenerated
from shared.kafka.codec import Record, encode
from shared.media.samples import SAMPLE_RATE_HZ
from shared.storage import keys

EVENTS = 1_000
BATCH_EVENTS = 500
SCENES = 10
SCENE_S = 5
EPOCH = "1"


def requested(job: int, scene: int) -> SceneRequested:
    """Return the request of one scene."""
    return SceneRequested(
        job_id=f"job-{job}",
        scene_index=scene,
        scene_count=SCENES,
        duration_s=SCENE_S,
        description="A peaceful ride along the river",
    )


def generated(job: int, scene: int) -> SegmentGenerated:
    """Return the segment of one scene."""
    job_id, samples = f"job-{job}", SCENE_S * SAMPLE_RATE_HZ
    return SegmentGenerated(
        job_id=job_id,
        run=1,
        scene_index=scene,
        scene_count=SCENES,
        origin=Origin.CONTINUED if scene else Origin.FRESH,
        object_key=keys.clip_key(job_id, 1, scene, 1),
        content_type="audio/mpeg",
        sha256="0" * 64,
        size_bytes=72_000,
        duration_s=SCENE_S,
        start_samples=scene * samples,
        samples=samples,
        clip_samples=samples,
        join_samples=scene * samples,
        prompt="calm, warm ambient music",
        provider="synth",
    )


def log_of(kind: Callable[[int, int], Event], *, now: datetime) -> tuple[Record, ...]:
    """Return the records in log order: scene by scene over all jobs."""
    events = (kind(job, scene) for scene in range(SCENES) for job in range(EVENTS // SCENES))
    return tuple(_record(event, offset, now) for offset, event in enumerate(events))


def _record(event: Event, offset: int, now: datetime) -> Record:
    encoded = encode(event, source="benchmark", now=now)
    return Record(
        topic=encoded.topic,
        partition=0,
        offset=offset,
        key=encoded.key,
        value=encoded.value,
        headers=encoded.headers,
        timestamp_ms=int(now.timestamp() * 1000),
    )


def batches(records: Sequence[Record], size: int) -> Iterable[Batch]:
    """Yield the records in batches of `size`."""
    for start in range(0, len(records), size):
        part = tuple(records[start : start + size])
        yield Batch(
            topic=part[0].topic, partition=0, start=start, end=start + len(part), records=part
        )


@dataclass(frozen=True, kw_only=True)
class ProjectionBench:
    """The applier and its records."""

    applier: Applier
    requests: tuple[Record, ...]
    segments: tuple[Record, ...]

    async def reset(self) -> None:
        """Empty the projection and apply all requests."""
        topics = [(self.requests[0].topic, 0), (self.segments[0].topic, 0)]
        async with self.applier.database.transaction() as connection:
            await connection.execute("TRUNCATE jobs, runs, scenes, projection_offsets")
            await offsets.stored(connection, EPOCH, topics)
        for batch in batches(self.requests, BATCH_EVENTS):
            await self.applier.apply(batch)

    def apply_segments(self, size: int) -> Callable[[], Awaitable[None]]:
        """Return a step that applies all segments, `size` per transaction."""

        async def run() -> None:
            for batch in batches(self.segments, size):
                await self.applier.apply(batch)
            async with self.applier.database.connection() as connection:
                count = await connection.fetchval(
                    "SELECT count(*) FROM scenes WHERE object_key IS NOT NULL"
                )
            assert count == EVENTS, f"{count} of {EVENTS} segments are in the database"

        return run


async def measure() -> Report:
    """Measure both variants on one server."""
    facts = machine_facts(PostgreSQL=EmbeddedPostgres.version())
    with tempfile.TemporaryDirectory(prefix="segue-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=True)
        url = await asyncio.to_thread(server.start)
        try:
            return await _measure_on(url, facts)
        finally:
            await asyncio.to_thread(server.stop)


async def _measure_on(url: str, facts: dict[str, str | int | float]) -> Report:
    settings = ApiSettings.from_environment(database=DatabaseSettings(url=SecretStr(url)))
    settings = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"epoch": EPOCH})}
    )
    database, clock = Database(settings.database), SystemClock()
    await database.open()
    try:
        await migrate(database)
        log = structlog.get_logger("benchmark")
        bench = ProjectionBench(
            applier=Applier(database=database, settings=settings, clock=clock, log=log),
            requests=log_of(requested, now=clock.now()),
            segments=log_of(generated, now=clock.now()),
        )
        measurements = await compare([_way(bench, 1), _way(bench, BATCH_EVENTS)], unit="events/s")
    finally:
        await database.close()
    return Report(name="projection", measurements=measurements, facts=facts)


def _way(bench: ProjectionBench, size: int) -> Variant:
    name = "transaction per event" if size == 1 else f"{size} events per transaction"
    return Variant(name=name, work=EVENTS, run=bench.apply_segments(size), prepare=bench.reset)


if __name__ == "__main__":
    main(measure)
