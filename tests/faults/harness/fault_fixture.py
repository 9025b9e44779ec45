"""Room: one place where services die: a topic prefix, a store, a fake Replicate, a history.

Rooms are cheap and know nothing of each other, so that many deaths happen side by side on one
broker. The fake lives in the tests' own process, so it outlives every service; its clips are
remembered over all rooms, because equal requests have equal clips.
"""

import asyncio
import hashlib
import secrets
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer

from replicate_server import EmulatorSettings, ReplicateEmulator
from replicate_server.model.composer import Compose
from services.generator.providers import CompositionRequest
from services.generator.providers.synth.provider import compose
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
from tests.faults.harness.forked_services import Forked
from tests.faults.harness.history import Fact, Recorder
from tests.faults.harness.steps import Point, Target
from tests.support.event_builders import a_scene
from tests.support.processes import eventually, value_of
from tests.support.servers import KafkaServer

#: short, so that a death costs seconds; every protection is as long as it must be against these
LEASE_S, REQUEST_S, SETTLE_S = 2.0, 5.0, 8.0
SESSION_S = 6.0  # the shortest that Kafka allows
WORK_S = 0.3
PARTITIONS = 1  # jobs side by side in one of them: the harder case for what is committed
SCENE_S = (1.7, 1.25, 2.3, 1.1)  # the lengths of a job's scenes, in turn

RESULTS = (SegmentGenerated.kind, AudioMerged.kind, VideoMuxed.kind)

T = TypeVar("T")
_clips: dict[str, bytes] = {}
_composing = Lock()


def composed_once(request: CompositionRequest, source: bytes | None) -> bytes:
    """What the synthesizer makes of it, made once in a test run."""
    told = f"{request!r}{hashlib.sha256(source or b'').hexdigest()}"
    with _composing:
        if told not in _clips:
            _clips[told] = compose(request, source)
        return _clips[told]


class FaultFixture:
    """What one case of the suite has to itself."""

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
        self.listener = AIOKafkaConsumer(
            *(prefix + kind for kind in RESULTS),
            bootstrap_servers=kafka.bootstrap,
            auto_offset_reset="earliest",
        )
        self._heard: dict[str, set[tuple[str, int, int]]] = {kind: set() for kind in RESULTS}
        self._asked: set[tuple[str, int, int]] = set()

    async def request(
        self,
        jobs: Iterable[str],
        *,
        scenes: int,
        run: int = 1,
        excused: str | None = None,
        **fields: Any,
    ) -> None:
        """Ask for these jobs, scene by scene in turn, as upstream does; `fields` of each scene."""
        names = list(jobs)
        for job in names:
            self.history.wanted(job, run=run, scene_count=scenes, excused=excused)
            if excused is None:
                self._asked |= {(job, run, index) for index in range(scenes)}
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
    ) -> Forked:
        """A service of this room, not started; it dies, or freezes, `at` a point.

        `without` names a protection that it lacks.
        """
        arguments = [name, "--history", str(self.history.path)]
        if at is not None:
            arguments += ["--at", str(at), *(["--freeze"] * freeze)]
        if target is not None:
            arguments += ["--scene", str(target.scene)]
            arguments += [] if target.job_id is None else ["--job", target.job_id]
        arguments += [] if without is None else ["--without", without]
        log = self.folder / f"{name}-{number}{'' if at is None else '-dies'}.log"
        return Forked(name, self.environment, arguments=arguments, log=log)

    async def publish(self, event: Event) -> None:
        """Publish."""
        await self.publisher.publish(event)

    async def until_published(
        self, count: int, *, kind: str = SegmentGenerated.kind, within_s: float = 90
    ) -> None:
        """Wait for `count` different events of a kind."""

        async def look() -> bool | None:
            await self._listen()
            return len(self._heard[kind]) >= count or None

        await eventually(look, within_s=within_s, what=f"{count} {kind} in {self.folder}")

    async def until_done(self, *, within_s: float = 90) -> None:
        """Wait for all that was asked for, and until the generators let go of it."""

        async def look() -> bool | None:
            await self._listen()
            return self._asked <= self._heard[SegmentGenerated.kind] or None

        await eventually(look, within_s=within_s, what=f"every segment in {self.folder}")
        await self.until_committed(GENERATOR_GROUP, SceneRequested.kind)

    async def _listen(self) -> None:
        """Hear what was said meanwhile."""
        for polled in (await self.listener.getmany(timeout_ms=200)).values():
            for raw in polled:
                record = record_of(raw, prefix=self.prefix)
                said = value_of(record)
                which = (said["job_id"], said["run"], said.get("scene_index", 0))
                self._heard[record.topic].add(which)

    async def until_committed(self, group: str, topic: str, *, within_s: float = 60) -> None:
        """Wait until a group let go of every record of a topic (no prefix)."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap_servers,
            group_id=self.prefix + group,
            enable_auto_commit=False,
        )

        async def look() -> bool | None:
            ends = await consumer.end_offsets(places)
            done = [await consumer.committed(tp) or 0 for tp in places]
            return done == [ends[tp] for tp in places] or None

        places = await history.places_of(self.kafka.bootstrap_servers, self.prefix + topic)
        await consumer.start()
        try:
            await eventually(look, within_s=within_s, what=f"commits of {group} in {self.folder}")
        finally:
            await consumer.stop()

    async def judged(self) -> list[Fact]:
        """The whole history, with everything the world says now."""
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
    compose: Compose = composed_once,
) -> AsyncIterator[FaultFixture]:
    """A room, its topics made; `compose` is what its provider makes of a request."""
    prefix = f"f{secrets.token_hex(4)}-"
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=work_s), compose=compose)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(fake)
        made = FaultFixture(kafka, prefix, folder, fake, partitions=partitions)
        made.environment["SEGUE_CLAIM_SETTLE_S"] = str(settle_s)
        stack.push_async_callback(made.store.close)
        await ensure_topics(made.kafka)
        for client in (made.publisher, made.listener):
            stack.push_async_callback(client.stop)
            await client.start()
        yield made


async def together(cases: Iterable[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """What every case brings, at most so many side by side; when one fails, all end."""
    slots = asyncio.Semaphore(at_once)

    async def one(case: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await case

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(case)) for case in cases]
    return [task.result() for task in tasks]


def report(name: str, histories: Sequence[Sequence[Fact]]) -> str:
    """One line of figures over several histories, for `docs/reliability.md`."""
    total: dict[str, int] = {}
    for one in histories:
        for what, count in checker.figures(one).items():
            total[what] = total.get(what, 0) + count
    return f"{name}: " + ", ".join(f"{what} {count}" for what, count in total.items())
