"""A requeue that is killed or interrupted goes on: each record back once, each run in order."""

import asyncio
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.errors import InvalidEventError
from shared.events import SceneRequested
from shared.kafka.codec import Record, encode
from shared.kafka.deadletter import dead_letter_headers
from shared.kafka.parking import Parked, ParkedRuns
from shared.kafka.producer import Publisher
from shared.storage.filesystem import FolderStore
from tests.builders import a_scene
from tests.faults.lengths import SEED
from tests.operator import OperatorGround, operator_ground
from tests.running import eventually, value_of
from tests.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
TOPIC = SceneRequested.kind
JOBS, SCENES = 150, 40
WORDS = ("dlq", "requeue", TOPIC, "--apply", "--reason", "to see")
KILLS = 3


@pytest.fixture
async def ground(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorGround]:
    """Very many parked runs, their letters in turns, the last scene of each first."""
    async with operator_ground(kafka.bootstrap, postgres, topic_prefix, store_folder) as ground:
        publisher = Publisher(ground.kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            for scene in reversed(range(SCENES)):
                await publisher.send_all([a_letter(job, scene) for job in range(JOBS)])
        finally:
            await publisher.stop()
        parked = ParkedRuns(FolderStore(store_folder))
        for job in range(JOBS):
            await parked.park(f"job-{job}", 1, TOPIC, reason="wrong")
        yield ground


def a_letter(job: int, scene: int) -> Record:
    """A request that died; it lay in the order of the scenes."""
    event = a_scene(scene, count=SCENES).model_copy(update={"job_id": f"job-{job}"})
    one = encode(event, source="api", now=SystemClock().now())
    record = Record(
        topic=TOPIC,
        partition=job % 4,
        offset=scene * JOBS + job,
        key=one.key,
        value=one.value,
        headers=one.headers,
    )
    told = dead_letter_headers(
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
        key=one.key,
        value=one.value,
        headers=one.headers + told,
    )


async def copied(ground: OperatorGround) -> int:
    """How far the audit says that it is."""
    rows = await ground.line.rows(
        "SELECT (progress->>'copied')::integer AS copied FROM operator_actions ORDER BY id DESC"
    )
    return rows[0]["copied"] or 0 if rows else 0


async def test_killed_at_random_it_goes_on_with_every_record_once_and_in_order(
    ground: OperatorGround, store_folder: Path
) -> None:
    """Ctrl-C once, SIGKILL after that, then to its end; no other may take its letters meanwhile."""
    chance = random.Random(SEED)
    codes: list[int] = []
    for number in [signal.SIGINT, *[signal.SIGKILL] * KILLS]:
        before = await copied(ground)
        process = await ground.start(*WORDS, "--rate", "1500")

        async def goes_on(before: int = before) -> bool | None:
            return await copied(ground) > before or None

        await eventually(goes_on, within_s=60, what="records put back")
        await asyncio.sleep(chance.uniform(0, 0.3))
        assert process.returncode is None, await process.communicate()
        process.send_signal(number)
        codes.append(await process.wait())
    halfway = len(await ground.log(TOPIC))

    other = await ground.segue("dlq", "requeue", "--job", "job-149", *WORDS[3:])
    done = await ground.segue(*WORDS)
    twice = await ground.segue(*WORDS)
    log = await ground.log(TOPIC)

    sys.stdout.write(f"requeue of {JOBS * SCENES}, ended {codes}, {halfway} back by then\n")
    assert codes == [130, *[-signal.SIGKILL] * KILLS]
    assert 0 < halfway < JOBS * SCENES
    assert (other[0], "the same words as then" in other[1]["error"]) == (4, True), other
    assert (done[0], done[1]["goes_on"], done[1]["copied"]) == (0, True, JOBS * SCENES), done
    assert (twice[0], "requeued already" in twice[1]["error"]) == (4, True), twice
    assert set(Counter(one.header("dlq-requeue-of") for one in log).values()) == {1}
    runs: dict[bytes | None, list[tuple[int, str | None]]] = defaultdict(list)
    for one in log:
        runs[one.key].append((value_of(one)["scene_index"], one.header("dlq-requeue-last")))
    whole = [(scene, "true" if scene == SCENES - 1 else None) for scene in range(SCENES)]
    assert len(runs) == JOBS
    assert all(run == whole for run in runs.values())
    states = await ground.line.rows("SELECT state FROM operator_actions")
    assert states == [{"state": "done"}]
    standing = await ParkedRuns(FolderStore(store_folder)).standing("job-0", 1, TOPIC)
    assert standing == Parked(open_for=str(done[1]["requeue"]))
