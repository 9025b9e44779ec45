"""Soak test: 100,000 events through generator and api without growth.

The segments are already stored, as after a loss of Kafka: the generator finds each one, republishes
it, updates the changelog and commits; the api projects both topics. This exercises lanes, table,
commits and projection with new jobs, not the generation of music. Each process samples its own
resource usage every second (`sampled_service.py`).
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.storage.keys import segment_key
from tests.faults.harness.durations import long_or
from tests.faults.harness.sampled_service import SampledService
from tests.support.api_fixture import free_port
from tests.support.api_service import ApiServiceFixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SCENES = 4
WARM_JOBS = 50  # to fill pools, validators and buffers
JOBS = long_or(long=12_500, short=250)
AT_ONCE = 250  # jobs that are requested concurrently
EVENTS_EACH = 2 * SCENES  # a request and a segment per scene
DONE_S = long_or(long=540.0, short=90.0)
QUIET_S = 3.0
GROWTH_MIB_MAX = long_or(long=80.0, short=40.0)  # includes the state of 12,500 jobs


def _store_segments(folder: Path, jobs: range) -> None:
    """Store the segments of these jobs."""
    for number in jobs:
        for index in range(SCENES):
            segment = a_segment(index, count=SCENES, job_id=f"job-{number}")
            path = folder / segment_key(segment.job_id, segment.run, index)
            path.parent.mkdir(parents=True)
            path.write_text(segment.model_dump_json())


async def _publish_scenes(fixture: ApiServiceFixture, jobs: range) -> None:
    """Publish every scene of these jobs, each job's in order."""
    publisher = Publisher(fixture.broker(), source="test", clock=SystemClock())
    await publisher.start()
    try:
        for first in range(jobs.start, jobs.stop, AT_ONCE):
            batch = range(first, min(first + AT_ONCE, jobs.stop))
            for index in range(SCENES):
                scenes = [a_scene(index, count=SCENES, job_id=f"job-{n}") for n in batch]
                await asyncio.gather(*(publisher.publish(scene) for scene in scenes))
    finally:
        await publisher.stop()


async def _until_projected(fixture: ApiServiceFixture, jobs: int) -> None:
    async def poll() -> bool | None:
        if await fixture.rows("SELECT 1 WHERE to_regclass('projection_offsets') IS NULL"):
            return None  # the api is starting
        rows = await fixture.rows(
            "SELECT coalesce(sum(next_offset), 0) AS n FROM projection_offsets"
        )
        return rows[0]["n"] >= jobs * EVENTS_EACH or None

    await eventually(poll, within_s=DONE_S, what=f"{jobs * EVENTS_EACH} events projected")


@asynccontextmanager
async def _services(
    fixture: ApiServiceFixture, folder: Path
) -> AsyncIterator[list[SampledService]]:
    environment = {
        **fixture.kafka.environment(),
        "DATABASE_URL": fixture.url,
        "SEGUE_TOPIC_PREFIX": fixture.prefix,
        "SEGUE_STORE_DIR": str(fixture.folder),
        "SEGUE_API_PORT": str(free_port()),
        "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
        "SEGUE_LOG_LEVEL": "warning",
        "MUSIC_PROVIDER": "silence",
    }
    running = [SampledService(name, environment, folder=folder) for name in ("generator", "api")]
    async with AsyncExitStack() as stack:
        for service in running:
            stack.push_async_callback(service.kill)
            await service.start()
        yield running


def _slope_mib(samples: Sequence[dict[str, float]], events: int) -> float:
    """Return the growth in MiB per 10,000 events, by least squares."""
    xs = [events * index / len(samples) / 10_000 for index in range(len(samples))]
    ys = [sample["rss_mib"] for sample in samples]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle_x) ** 2 for x in xs)


def _figures(service: SampledService, *, warm: int, events: int) -> Iterator[str]:
    """Yield the figures; check that memory, handles and tasks are those of a warm process."""
    samples = service.samples()
    before, after, busy = samples[warm], samples[-1], samples[warm:]
    half = busy[len(busy) // 2 :]
    yield (
        f"{service.name}: RSS {before['rss_mib']:.0f} -> {after['rss_mib']:.0f} MiB"
        f" ({_slope_mib(half, events // 2):+.2f} MiB per 10,000 in the second half)"
    )
    for what in ("handles", "threads", "tasks"):
        most = max(sample[what] for sample in busy)
        yield f"{what} {before[what]:.0f} -> {after[what]:.0f} (at most {most:.0f})"
    assert after["rss_mib"] - before["rss_mib"] < GROWTH_MIB_MAX
    assert after["handles"] <= before["handles"] + 12, "ten pooled connections and two listeners"
    assert after["threads"] <= before["threads"] + 8, "the thread pool"
    assert after["tasks"] <= before["tasks"] + 5


async def test_resource_usage_does_not_grow_with_events(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path, tmp_path: Path
) -> None:
    """Every event is projected; memory, handles and tasks stay those of a warm process."""
    fixture = ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)
    total = WARM_JOBS + JOBS
    await asyncio.to_thread(_store_segments, store_folder, range(total))
    await ensure_topics(fixture.broker())
    loop = asyncio.get_running_loop()
    async with _services(fixture, tmp_path) as running:
        await _publish_scenes(fixture, range(WARM_JOBS))
        await _until_projected(fixture, WARM_JOBS)
        await asyncio.sleep(QUIET_S)
        warm = {service.name: len(service.samples()) - 1 for service in running}
        start_s = loop.time()
        await _publish_scenes(fixture, range(WARM_JOBS, total))
        await _until_projected(fixture, total)
        took_s = loop.time() - start_s
        await asyncio.sleep(QUIET_S)
        rows = await fixture.rows("SELECT status, count(*) AS n FROM runs GROUP BY status")
        scenes = await fixture.rows("SELECT count(*) AS n FROM scenes")
        published = len(await fixture.published("segment.generated"))

    events = JOBS * EVENTS_EACH
    sys.stdout.write(f"soak of {events} events, {events / took_s:.0f}/s\n")
    for service in running:
        figures = _figures(service, warm=warm[service.name], events=events)
        sys.stdout.write(", ".join(figures) + "\n")
    assert rows == [{"status": "merging", "n": total}]
    assert scenes == [{"n": total * SCENES}]
    assert published == total * SCENES
