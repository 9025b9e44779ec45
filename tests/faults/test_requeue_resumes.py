"""A requeue that is killed or interrupted resumes: each record once, each run in order."""

import asyncio
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from shared.clock import SystemClock
from shared.contract.events import SceneRequested, Stage
from shared.errors import InvalidEventError
from shared.kafka.codec import Envelope, Record, encode
from shared.kafka.consumer import LaneConsumer
from shared.kafka.dead_letters import dead_letter_headers
from shared.kafka.parked_runs import ParkedRuns
from shared.kafka.producer import Publisher
from shared.kafka.router import build_router
from shared.settings import LaneSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.faults.harness.durations import SEED
from tests.support.event_builders import a_scene
from tests.support.operator_commands import OperatorFixture, operator_fixture
from tests.support.processes import eventually, value_of
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
TOPIC = SceneRequested.kind
JOBS, SCENES = 150, 40
WORDS = ("dlq", "requeue", TOPIC, "--apply", "--reason", "to see")
KILLS = 3


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """Many parked runs with interleaved dead letters, the last scene of each first."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            for scene in reversed(range(SCENES)):
                await publisher.send_all([a_letter(job, scene) for job in range(JOBS)])
        finally:
            await publisher.stop()
        parked = ParkedRuns(FolderStore(store_folder))
        for job in range(JOBS):
            await parked.park(f"job-{job}", 1, TOPIC, reason="wrong")
        yield fixture


def a_letter(job: int, scene: int) -> Record:
    """Return a dead letter; its origin was in the order of the scenes."""
    event = a_scene(scene, count=SCENES).model_copy(update={"job_id": f"job-{job}"})
    encoded = encode(event, source="api", now=SystemClock().now())
    record = Record(
        topic=TOPIC,
        partition=job % 4,
        offset=scene * JOBS + job,
        key=encoded.key,
        value=encoded.value,
        headers=encoded.headers,
    )
    added = dead_letter_headers(
        record,
        InvalidEventError("wrong"),
        attempts=0 if scene else 1,
        service="generator",
        now=SystemClock().now(),
    )
    return Record(
        topic=f"{TOPIC}.dlq",
        partition=record.partition,
        offset=0,
        key=encoded.key,
        value=encoded.value,
        headers=encoded.headers + added,
    )


async def copied(fixture: OperatorFixture) -> int:
    """Return the number of copied records in the audit row."""
    rows = await fixture.api.rows(
        "SELECT (progress->>'copied')::integer AS copied FROM operator_actions ORDER BY id DESC"
    )
    return rows[0]["copied"] or 0 if rows else 0


@dataclass
class Recorder:
    """Collects the events of the topic in the order in which they are processed."""

    processed: list[Envelope]
    topics: ClassVar = (TOPIC,)

    def on_received(self, envelope: Envelope) -> None:
        """Do nothing before the record's turn."""

    async def handle(self, envelope: Envelope) -> None:
        """Collect the event."""
        self.processed.append(envelope)


@asynccontextmanager
async def a_service(fixture: OperatorFixture, store: FolderStore) -> AsyncIterator[list[Envelope]]:
    """Run a consumer of the topic as services do; yield the events it has processed, in order."""
    processed: list[Envelope] = []
    log, clock = logger_of("test"), SystemClock()
    limits = LaneSettings.from_environment()
    publisher = Publisher(fixture.kafka, source="generator", clock=clock)
    await publisher.start()

    consumer = LaneConsumer(
        group="a-service",
        handler=Recorder(processed=processed),
        router=build_router(
            service="generator",
            stage=Stage.GENERATION,
            publisher=publisher,
            store=store,
            settings=limits,
            clock=clock,
            log=log,
        ),
        kafka=fixture.kafka,
        lanes=limits,
        log=log,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    try:
        yield processed
    finally:
        stop.set()
        await running
        await publisher.stop()


async def test_a_killed_requeue_resumes_with_every_record_once_and_in_order(
    fixture: OperatorFixture, store_folder: Path
) -> None:
    """SIGINT once, then SIGKILL, then to its end, while a service consumes the topic."""
    store = FolderStore(store_folder)
    async with a_service(fixture, store) as processed:
        await requeue_with_kills(fixture)

        async def all_processed() -> bool | None:
            return len(processed) >= JOBS * SCENES or None

        await eventually(all_processed, within_s=60, what="every record processed")
    order: dict[str, list[int]] = defaultdict(list)
    for envelope in processed:
        assert isinstance(envelope.event, SceneRequested)
        order[envelope.event.job_id].append(envelope.event.scene_index)
    assert len(order) == JOBS
    assert all(scenes == list(range(SCENES)) for scenes in order.values())
    assert len(await fixture.log(f"{TOPIC}.dlq")) == JOBS * SCENES, (
        "no record was dead-lettered again"
    )
    for job in range(JOBS):
        assert await ParkedRuns(store).state(f"job-{job}", 1, TOPIC) is None


async def requeue_with_kills(fixture: OperatorFixture) -> None:
    """Kill and resume the requeue; check the topic and that no other requeue may start."""
    chance = random.Random(SEED)
    codes: list[int] = []
    for number in [signal.SIGINT, *[signal.SIGKILL] * KILLS]:
        before = await copied(fixture)
        process = await fixture.start(*WORDS, "--rate", "600")

        async def continues(before: int = before) -> bool | None:
            return await copied(fixture) > before or None

        await eventually(continues, within_s=60, what="requeued records")
        await asyncio.sleep(chance.uniform(0, 0.3))
        assert process.returncode is None, await process.communicate()
        process.send_signal(number)
        codes.append(await process.wait())
    back = await fixture.log(TOPIC)
    halfway = len(back)
    untouched = {f"job-{job}" for job in range(JOBS)} - {(r.key or b"").decode() for r in back}

    other = await fixture.segue("dlq", "requeue", "--job", min(untouched), *WORDS[3:])
    done = await fixture.segue(*WORDS)
    twice = await fixture.segue(*WORDS)
    log = await fixture.log(TOPIC)

    sys.stdout.write(f"requeue of {JOBS * SCENES}, ended {codes}, {halfway} requeued by then\n")
    assert codes == [130, *[-signal.SIGKILL] * KILLS]
    assert 0 < halfway < JOBS * SCENES
    assert (other[0], "run that command again" in other[1]["error"]) == (4, True), other
    assert (done[0], done[1]["resumes"], done[1]["copied"]) == (0, True, JOBS * SCENES), done
    assert (twice[0], "already requeued" in twice[1]["error"]) == (4, True), twice
    assert set(Counter(r.header("dlq-requeue-of") for r in log).values()) == {1}
    runs: dict[bytes | None, list[tuple[int, str | None]]] = defaultdict(list)
    for record in log:
        scene = value_of(record)["scene_index"]
        runs[record.key].append((scene, record.header("dlq-requeue-last")))
    whole = [(scene, "true" if scene == SCENES - 1 else None) for scene in range(SCENES)]
    assert len(runs) == JOBS
    assert all(run == whole for run in runs.values())
    states = await fixture.api.rows("SELECT state FROM operator_actions")
    assert states == [{"state": "done"}]
