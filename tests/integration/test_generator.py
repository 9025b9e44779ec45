"""Tests the generator process on a real broker: order, kill, redelivery, Faust's behaviour."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from typing_extensions import override

from services.generator.app import run
from services.generator.faust_app.driver import build_faust
from services.generator.providers import Clip, CompositionRequest
from services.generator.providers.mp3 import encode
from services.generator.settings import GeneratorSettings
from shared.clock import SystemClock
from shared.contract.events import SceneRequested
from shared.contract.topics import GENERATOR_GROUP
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings, StoreSettings
from tests.fakes.provider import LedgerProvider
from tests.support.event_builders import a_scene
from tests.support.processes import Service, eventually, records_of, services, value_of
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCENES = 8


class GeneratorFixture:
    """A topic prefix, a store and the environment of one test's generators."""

    def __init__(self, kafka: KafkaServer, prefix: str, folder: Path) -> None:
        self.kafka = kafka
        self.prefix = prefix
        self.store = folder / "store"
        self.environment = {
            **kafka.environment(),
            "SEGUE_TOPIC_PREFIX": prefix,
            "SEGUE_STORE_DIR": str(self.store),
            "SEGUE_SESSION_TIMEOUT_S": "6",
            "SEGUE_HEARTBEAT_S": "1",
            "MUSIC_PROVIDER": "synth",
        }
        self.settings = KafkaSettings(
            bootstrap_servers=kafka.bootstrap, topic_prefix=prefix, create_topics=kafka.real
        )

    async def segments(self) -> list[dict[str, object]]:
        """Return the published `segment.generated` events, in the order of the log."""
        records = await records_of(self.kafka.bootstrap, "segment.generated", prefix=self.prefix)
        return [value_of(record) for record in records]

    async def all_of(self, jobs: int, scenes: int) -> list[dict[str, object]] | None:
        """Return the segments once each scene of each job has one; None before."""
        segments = await self.segments()
        distinct = {(segment["job_id"], segment["scene_index"]) for segment in segments}
        return segments if len(distinct) == jobs * scenes else None

    async def committed(self, partition: int) -> int | None:
        """Return the committed offset of the generator's group."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            group_id=self.prefix + GENERATOR_GROUP,
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            topic_partition = TopicPartition(self.prefix + SceneRequested.kind, partition)
            offset: int | None = await consumer.committed(topic_partition)
            return offset
        finally:
            await consumer.stop()

    def claims(self) -> int:
        """Return the number of claims, over all scenes."""
        return sum(1 for _ in self.store.rglob("claim-*"))

    def predictions(self) -> int:
        """Return the number of predictions; a void claim has an empty object."""
        return sum(1 for path in self.store.rglob("prediction-*") if path.stat().st_size)


@pytest.fixture
async def generators(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[tuple[GeneratorFixture, Publisher]]:
    """Yield the fixture and a publisher of upstream events."""
    fixture = GeneratorFixture(kafka, topic_prefix, tmp_path)
    await ensure_topics(fixture.settings)
    publisher = Publisher(fixture.settings, source="test", clock=SystemClock())
    await publisher.start()
    yield fixture, publisher
    await publisher.stop()


def _in_order(segments: list[dict[str, object]]) -> bool:
    """Return whether, per job, a scene is first published after all earlier ones."""
    latest: dict[object, int] = defaultdict(lambda: -1)
    for segment in segments:
        job_id, index = segment["job_id"], segment["scene_index"]
        assert isinstance(index, int)
        if index > latest[job_id] + 1:
            return False
        latest[job_id] = max(latest[job_id], index)
    return True


def _jobs_of_partition(partition: int) -> list[str]:
    """Return ids of jobs whose records are in this partition of four."""
    choose = DefaultPartitioner()
    numbers = [0, 1, 2, 3]
    jobs = [f"job-{number}" for number in range(40)]
    return [job for job in jobs if choose(job.encode(), numbers, numbers) == partition]


def _clip(request: CompositionRequest) -> bytes:
    """Return quiet noise of the requested duration."""
    noise = np.random.default_rng(request.seed).standard_normal((2, request.duration_s * 32_000))
    return encode((0.1 * noise).astype(np.float32))


@dataclass(kw_only=True)
class WaitingProvider(LedgerProvider):
    """Blocks the requests with one prompt until `release` is set."""

    held: str
    release: asyncio.Event

    @override
    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        if request.prompt == self.held:
            await self.release.wait()
        return await super().collect(prediction_id, request)


async def test_two_jobs_interleaved_in_one_partition_are_both_in_order_and_complete(
    generators: tuple[GeneratorFixture, Publisher], tmp_path: Path
) -> None:
    """Eight scenes each, alternating on the log; every record is checked."""
    fixture, publisher = generators
    jobs = _jobs_of_partition(2)[:2]
    async with services("generator", environment=fixture.environment, folder=tmp_path):
        for index in range(SCENES):
            for job in jobs:
                await publisher.publish(a_scene(index, count=SCENES, job_id=job, duration_s=1.7))
        published = await eventually(
            lambda: fixture.all_of(2, SCENES), within_s=120, what="all segments of both jobs"
        )

    requests = await records_of(fixture.kafka.bootstrap, SceneRequested.kind, prefix=fixture.prefix)
    assert len({record.partition for record in requests}) == 1
    assert [value_of(record)["job_id"] for record in requests] == list(jobs) * SCENES
    for job in jobs:
        segments = [segment for segment in published if segment["job_id"] == job]
        assert [segment["scene_index"] for segment in segments] == list(range(SCENES))
        assert [segment["origin"] for segment in segments] == ["fresh"] + ["continued"] * (
            SCENES - 1
        )
    assert fixture.claims() == 2 * SCENES


async def test_a_killed_generator_generates_every_scene_once(
    generators: tuple[GeneratorFixture, Publisher], tmp_path: Path
) -> None:
    """`kill -9` three times while scenes run: nothing is lost, in order, one prediction each."""
    fixture, publisher = generators
    jobs = 6
    for index in range(SCENES):
        for job in range(jobs):
            await publisher.publish(
                a_scene(index, count=SCENES, job_id=f"job-{job}", duration_s=1.7)
            )
    async with services("generator", environment=fixture.environment, folder=tmp_path) as started:
        for enough in (5, 15, 25):

            async def some(enough: int = enough) -> bool | None:
                return len(await fixture.segments()) >= enough or None

            await eventually(some, within_s=90, what=f"{enough} segments")
            await started["generator"].kill()
            await started["generator"].start()
        published = await eventually(
            lambda: fixture.all_of(jobs, SCENES), within_s=180, what="all segments of all jobs"
        )

    assert _in_order(published)
    # a kill may use up one claim per lane, or precede storing the prediction's id
    assert fixture.predictions() <= jobs * SCENES <= fixture.claims() <= jobs * (SCENES + 3)


async def test_a_suspended_generator_loses_its_partitions_and_pays_nothing_twice(
    generators: tuple[GeneratorFixture, Publisher], tmp_path: Path
) -> None:
    """One of two generators is suspended past its session, then resumes."""
    fixture, publisher = generators
    jobs = 6
    async with services("generator", environment=fixture.environment, folder=tmp_path) as first:
        other = Service("generator", fixture.environment, log=tmp_path / "other.log")
        await other.start()
        try:
            for index in range(SCENES):
                for job in range(jobs):
                    await publisher.publish(
                        a_scene(index, count=SCENES, job_id=f"job-{job}", duration_s=1.7)
                    )

            async def some() -> bool | None:
                return len(await fixture.segments()) >= 4 or None

            await eventually(some, within_s=60, what="the first segments")
            first["generator"].send(signal.SIGSTOP)
            published = await eventually(
                lambda: fixture.all_of(jobs, SCENES), within_s=180, what="all segments"
            )
            first["generator"].send(signal.SIGCONT)
            assert await first["generator"].stop() == 0
        finally:
            await other.kill()

    assert _in_order(published)
    # a suspension may use up one claim per lane
    assert fixture.predictions() <= jobs * SCENES <= fixture.claims() <= jobs * (SCENES + 1)


async def test_nothing_beyond_an_unfinished_scene_is_committed(
    generators: tuple[GeneratorFixture, Publisher],
) -> None:
    """A job waits at offset 0 while its neighbours finish: offset 0 stays uncommitted."""
    fixture, publisher = generators
    blocked, neighbour = _jobs_of_partition(0)[:2]
    elsewhere = _jobs_of_partition(1)[0]
    release = asyncio.Event()
    provider = WaitingProvider(clip_of=_clip, held="hold me", release=release)
    await publisher.publish(a_scene(0, count=1, job_id=blocked, prompt="hold me"))
    for index in range(3):
        await publisher.publish(a_scene(index, count=3, job_id=neighbour))
        await publisher.publish(a_scene(index, count=3, job_id=elsewhere))
    stop = asyncio.Event()
    settings = GeneratorSettings.from_environment(
        kafka=fixture.settings, store=StoreSettings(folder=fixture.store)
    )
    running = asyncio.create_task(run(settings, stop=stop, provider=provider))
    try:
        await eventually(lambda: fixture.all_of(2, 3), within_s=30, what="the others' segments")

        async def others_committed() -> bool | None:
            return await fixture.committed(1) == 3 or None

        await eventually(others_committed, within_s=30, what="the other partition's commit")
        assert await fixture.committed(0) in {None, 0}
        release.set()

        async def all_committed() -> bool | None:
            return await fixture.committed(0) == 4 or None

        await eventually(all_committed, within_s=30, what="the commit of the held partition")
    finally:
        release.set()
        stop.set()
        await running


async def test_stock_faust_still_commits_past_unfinished_messages(
    generators: tuple[GeneratorFixture, Publisher],
) -> None:
    """The reason for `OffsetTracker`. If this fails, Faust is fixed: shorten ADR-0003."""
    fixture, publisher = generators
    (job,) = _jobs_of_partition(0)[:1]
    for index in range(50):
        await publisher.publish(a_scene(index, count=50, job_id=job))
    app = build_faust(GeneratorSettings.from_environment(kafka=fixture.settings))
    topic = app.topic(
        fixture.prefix + SceneRequested.kind, value_type=bytes, value_serializer="raw", partitions=4
    )
    held: list[object] = []

    async def ack_all_but_the_first(stream: Any) -> None:
        async for event in stream.noack().events():
            if event.message.offset == 0:
                held.append(event)
            else:
                event.ack()

    app.agent(topic, name="stock")(ack_all_but_the_first)
    app.finalize()
    await app.start()
    try:

        async def committed_past_it() -> bool | None:
            return await fixture.committed(0) == 50 or None

        await eventually(committed_past_it, within_s=30, what="a commit past offset 0")
        assert held, "the first message was never acked"
    finally:
        await app.stop()
