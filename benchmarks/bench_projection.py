"""Projection: what batches bring over one transaction per event.

The api's `Applier` reads the same events into a real PostgreSQL that keeps what it commits:
in batches, as the projector polls them, and each event in a transaction of its own. Requests of
all scenes are there before; what is timed are their segments, the bulk of what a run says.

Units: events per second. I/O: a PostgreSQL server in a temporary folder, gone afterwards.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import SecretStr

from benchmarks.harness import Report, Way, compare, machine, main
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
    """The request of one scene."""
    return SceneRequested(
        job_id=f"job-{job}",
        scene_index=scene,
        scene_count=SCENES,
        duration_s=SCENE_S,
        description="A peaceful ride along the river",
    )


def generated(job: int, scene: int) -> SegmentGenerated:
    """Its segment."""
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
    """The records of all scenes as they lie in a partition: jobs side by side, scene by scene."""
    told = (kind(job, scene) for scene in range(SCENES) for job in range(EVENTS // SCENES))
    return tuple(_record(event, offset, now) for offset, event in enumerate(told))


def _record(event: Event, offset: int, now: datetime) -> Record:
    said = encode(event, source="benchmark", now=now)
    return Record(
        topic=said.topic,
        partition=0,
        offset=offset,
        key=said.key,
        value=said.value,
        headers=said.headers,
        timestamp_ms=int(now.timestamp() * 1000),
    )


def batches(records: Sequence[Record], size: int) -> Iterable[Batch]:
    """The records in batches of `size`."""
    for start in range(0, len(records), size):
        part = tuple(records[start : start + size])
        yield Batch(
            topic=part[0].topic, partition=0, start=start, end=start + len(part), records=part
        )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The applier, and what it is given."""

    applier: Applier
    requests: tuple[Record, ...]
    segments: tuple[Record, ...]

    async def begin(self) -> None:
        """An empty projection that knows every scene's request."""
        topics = [(self.requests[0].topic, 0), (self.segments[0].topic, 0)]
        async with self.applier.database.transaction() as connection:
            await connection.execute("TRUNCATE jobs, runs, scenes, projection_offsets")
            await offsets.stored(connection, EPOCH, topics)
        for batch in batches(self.requests, BATCH_EVENTS):
            await self.applier.apply(batch)

    def applied_in(self, size: int) -> Callable[[], Awaitable[None]]:
        """Applies all segments, `size` in each transaction; afterwards they must be there."""

        async def run() -> None:
            for batch in batches(self.segments, size):
                await self.applier.apply(batch)
            async with self.applier.database.connection() as connection:
                done = await connection.fetchval(
                    "SELECT count(*) FROM scenes WHERE object_key IS NOT NULL"
                )
            assert done == EVENTS, f"{done} of {EVENTS} segments are in the database"

        return run


async def measure() -> Report:
    """Both ways on one server."""
    facts = machine(PostgreSQL=EmbeddedPostgres.version())
    with tempfile.TemporaryDirectory(prefix="segue-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=True)
        url = await asyncio.to_thread(server.start)
        try:
            return await _measured(url, facts)
        finally:
            await asyncio.to_thread(server.stop)


async def _measured(url: str, facts: dict[str, str | int | float]) -> Report:
    settings = ApiSettings.from_environment(database=DatabaseSettings(url=SecretStr(url)))
    settings = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"epoch": EPOCH})}
    )
    database, clock = Database(settings.database), SystemClock()
    await database.open()
    try:
        await migrate(database)
        log = structlog.get_logger("benchmark")
        bench = Bench(
            applier=Applier(database=database, settings=settings, clock=clock, log=log),
            requests=log_of(requested, now=clock.now()),
            segments=log_of(generated, now=clock.now()),
        )
        figures = await compare([_way(bench, 1), _way(bench, BATCH_EVENTS)], unit="events/s")
    finally:
        await database.close()
    return Report(name="projection", figures=figures, facts=facts)


def _way(bench: Bench, size: int) -> Way:
    name = "transaction per event" if size == 1 else f"{size} events a transaction"
    return Way(name=name, work=EVENTS, run=bench.applied_in(size), prepare=bench.begin)


if __name__ == "__main__":
    main(measure)
