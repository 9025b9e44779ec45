"""The fixture of a fault test: topics, a store, a Replicate emulator and a history.

Fixtures are independent, so many faults are tested concurrently on one broker. The emulator runs in
the test process and survives every service. Its clips are cached across fixtures.
"""

import asyncio
import secrets
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer

from replicate_server import EmulatorSettings, ReplicateEmulator
from replicate_server.model.composer import Compose
from shared.clock import SystemClock
from shared.contract.events import AudioMerged, Event, SceneRequested, SegmentGenerated, VideoMuxed
from shared.contract.topics import EVENT_TOPICS, GENERATOR_GROUP
from shared.kafka.admin import ensure_topics
from shared.kafka.consumer import record_of
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings, StoreSettings
from shared.storage import ObjectStore, StandInWarning
from shared.storage.factory import open_store
from tests.faults.harness import checker, history
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.history import Fact, Recorder
from tests.faults.harness.steps import Point, Target
from tests.support.composed_clips import compose_cached
from tests.support.event_builders import a_scene
from tests.support.processes import eventually, value_of
from tests.support.servers import KafkaServer

#: short, so that a crash costs seconds; the protections' intervals follow from these
LEASE_S, REQUEST_S, SETTLE_S = 2.0, 5.0, 8.0
SESSION_S = 6.0  # the shortest that Kafka allows
WORK_S = 0.3
PARTITIONS = 1  # jobs share it, which is the harder case for commits
SCENE_S = (1.7, 1.25, 2.3, 1.1)  # the lengths of a job's scenes, in turn

RESULTS = (SegmentGenerated.kind, AudioMerged.kind, VideoMuxed.kind)

T = TypeVar("T")


class FaultFixture:
    """Topics, store, emulator and history of one case; starts its services."""

    def __init__(
        self,
        kafka: KafkaServer,
        prefix: str,
        folder: Path,
        fake: ReplicateEmulator,
        *,
        partitions: int,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.fake = fake
        self.prefix = prefix
        self.history = Recorder(folder / "history.jsonl")
        self.kafka = KafkaSettings(
            bootstrap_servers=kafka.bootstrap,
            topic_prefix=prefix,
            create_topics=kafka.real,
            partitions=partitions if kafka.real else 4,
        )
        self.store: ObjectStore = open_store(StoreSettings(folder=folder / "store"))
        self.publisher = Publisher(self.kafka, source="test", clock=SystemClock())
        self.environment = {
            **kafka.environment(),
            "SEGUE_TOPIC_PREFIX": prefix,
            "SEGUE_PARTITIONS": str(self.kafka.partitions),
            "SEGUE_STORE_DIR": str(folder / "store"),
            "SEGUE_SESSION_TIMEOUT_S": f"{SESSION_S:g}",
            "SEGUE_HEARTBEAT_S": "1",
            "SEGUE_FETCH_MAX_WAIT_MS": "100",
            "SEGUE_SCENE_CACHE": "off",
            "SEGUE_CLAIM_LEASE_S": str(LEASE_S),
            "SEGUE_REPLICATE_REQUEST_TIMEOUT_S": str(REQUEST_S),
            "SEGUE_REPLICATE_STARTS_PER_S": "10",
            "SEGUE_REPLICATE_POLL_FIRST_S": "0.2",
            "SEGUE_REPLICATE_POLL_MAX_S": "0.5",
            "REPLICATE_API_KEY": fake.token,
            "REPLICATE_BASE_URL": fake.base_url,
        }
        self.consumer = AIOKafkaConsumer(
            *(prefix + kind for kind in RESULTS),
            bootstrap_servers=kafka.bootstrap,
            auto_offset_reset="earliest",
        )
        self._published: dict[str, set[tuple[str, int, int]]] = {kind: set() for kind in RESULTS}
        self._requested: set[tuple[str, int, int]] = set()

    async def request(
        self,
        jobs: Iterable[str],
        *,
        scenes: int,
        run: int = 1,
        excused: str | None = None,
        **fields: Any,
    ) -> None:
        """Publish the scenes of these jobs, interleaved; `fields` go into each scene."""
        names = list(jobs)
        for job in names:
            self.history.wanted(job, run=run, scene_count=scenes, excused=excused)
            if excused is None:
                self._requested |= {(job, run, index) for index in range(scenes)}
        for index in range(scenes):
            for job in names:
                seconds = SCENE_S[index % len(SCENE_S)]
                scene = a_scene(
                    index, count=scenes, job_id=job, run=run, duration_s=seconds, **fields
                )
                await self.publish(scene)

    def service(
        self,
        name: str,
        *,
        at: Point | None = None,
        target: Target | None = None,
        freeze: bool = False,
        number: int = 1,
        without: str | None = None,
    ) -> ForkedService:
        """Return a service that is not started; it kills or freezes itself `at` a point.

        `without` is the protection that is switched off.
        """
        arguments = [name, "--history", str(self.history.path)]
        if at is not None:
            arguments += ["--at", str(at), *(["--freeze"] * freeze)]
        if target is not None:
            arguments += ["--scene", str(target.scene)]
            arguments += [] if target.job_id is None else ["--job", target.job_id]
        arguments += [] if without is None else ["--without", without]
        log = self.folder / f"{name}-{number}{'' if at is None else '-dies'}.log"
        return ForkedService(name, self.environment, arguments=arguments, log=log)

    async def publish(self, event: Event) -> None:
        """Publish an event."""
        await self.publisher.publish(event)

    async def until_published(
        self, count: int, *, kind: str = SegmentGenerated.kind, within_s: float = 90
    ) -> None:
        """Wait until `count` different events of a kind are published."""

        async def poll() -> bool | None:
            await self._consume()
            return len(self._published[kind]) >= count or None

        await eventually(poll, within_s=within_s, what=f"{count} {kind} in {self.folder}")

    async def until_done(self, *, within_s: float = 90) -> None:
        """Wait until every requested segment is published and every request committed."""

        async def poll() -> bool | None:
            await self._consume()
            return self._requested <= self._published[SegmentGenerated.kind] or None

        await eventually(poll, within_s=within_s, what=f"every segment in {self.folder}")
        await self.until_committed(GENERATOR_GROUP, SceneRequested.kind)

    async def _consume(self) -> None:
        """Read the results published since the last call."""
        for polled in (await self.consumer.getmany(timeout_ms=200)).values():
            for raw in polled:
                record = record_of(raw, prefix=self.prefix)
                value = value_of(record)
                scene = (value["job_id"], value["run"], value.get("scene_index", 0))
                self._published[record.topic].add(scene)

    async def until_committed(self, group: str, topic: str, *, within_s: float = 60) -> None:
        """Wait until a group has committed every record of a topic (without prefix)."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap_servers,
            group_id=self.prefix + group,
            enable_auto_commit=False,
        )

        async def poll() -> bool | None:
            ends = await consumer.end_offsets(partitions)
            committed = [await consumer.committed(tp) or 0 for tp in partitions]
            return committed == [ends[tp] for tp in partitions] or None

        partitions = await history.partitions_of(self.kafka.bootstrap_servers, self.prefix + topic)
        await consumer.start()
        try:
            await eventually(poll, within_s=within_s, what=f"commits of {group} in {self.folder}")
        finally:
            await consumer.stop()

    async def collect_facts(self) -> list[Fact]:
        """Record calls, topics, commits and objects; return the whole history."""
        await self.fake.settled()
        await self.history.calls(self.fake.base_url.removesuffix("/v1"))
        topics = [topic.name for topic in EVENT_TOPICS]
        servers = self.kafka.bootstrap_servers
        dead = [topic.dead_letters for topic in EVENT_TOPICS]
        await self.history.publishes(servers, [*topics, *dead], prefix=self.prefix)
        await self.history.commits(
            servers, GENERATOR_GROUP, SceneRequested.kind, prefix=self.prefix
        )
        await self.history.objects(self.store)
        return history.read(self.history.path)


@asynccontextmanager
async def fault_fixture(
    kafka: KafkaServer,
    folder: Path,
    *,
    work_s: float = WORK_S,
    settle_s: float = SETTLE_S,
    partitions: int = PARTITIONS,
    compose: Compose = compose_cached,
) -> AsyncIterator[FaultFixture]:
    """Open a fixture with its topics; `compose` makes the emulator's clips."""
    prefix = f"f{secrets.token_hex(4)}-"
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=work_s), compose=compose)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(fake)
        fixture = FaultFixture(kafka, prefix, folder, fake, partitions=partitions)
        fixture.environment["SEGUE_CLAIM_SETTLE_S"] = str(settle_s)
        stack.push_async_callback(fixture.store.close)
        stack.push_async_callback(asyncio.to_thread, kafka.delete_topics, prefix)
        await ensure_topics(fixture.kafka)
        for client in (fixture.publisher, fixture.consumer):
            stack.push_async_callback(client.stop)
            await client.start()
        yield fixture


async def run_concurrently(cases: Iterable[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """Run the cases, at most `at_once` at a time; the first failure cancels the others."""
    slots = asyncio.Semaphore(at_once)

    async def run(case: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await case

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(case)) for case in cases]
    return [task.result() for task in tasks]


def report(name: str, histories: Sequence[Sequence[Fact]]) -> str:
    """Return the sum of the figures of several histories, for `docs/reliability.md`."""
    total: dict[str, int] = {}
    for facts in histories:
        for what, count in checker.figures(facts).items():
            total[what] = total.get(what, 0) + count
    return f"{name}: " + ", ".join(f"{what} {count}" for what, count in total.items())
