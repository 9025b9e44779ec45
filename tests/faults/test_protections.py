"""Negative controls: without a protection, the checker reports a violation.

Each case runs twice: with the protection, without violations, and without it.
"""

import asyncio
import signal
from pathlib import Path
from threading import Event

import pytest

from services.api.database import offsets
from services.api.projection.apply_batch import Batch, StaleBatchError
from services.generator.providers import CompositionRequest
from shared.clock import SystemClock
from shared.contract.events import SceneRequested, SegmentGenerated, VideoStitched
from shared.contract.ids import scene_seed
from shared.contract.topics import GENERATOR_GROUP
from shared.kafka.codec import Record, encode
from tests.faults.harness import checker, history
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture
from tests.faults.harness.history import Fact, Recorder
from tests.faults.harness.removed_protections import without_protection
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.composed_clips import compose_cached
from tests.support.event_builders import a_scene
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HELD_S_MAX = 60.0
COMMITS_S = 2.0  # four times the interval in which the generator commits
STITCHED = VideoStitched.kind


async def _killed_after_requesting(
    kafka: KafkaServer, folder: Path, without: str | None
) -> list[Fact]:
    """Kill a generator after it requested a scene; the next one gets the same scene."""
    async with fault_fixture(kafka, folder) as fixture:
        dying = fixture.service("generator", without=without)
        successor = fixture.service("generator", number=2, without=without)
        fixture.fake.tune(work_s=4.0)
        try:
            await dying.start()
            await fixture.request(["requested"], scenes=1)
            await _until_processing(fixture)
            await asyncio.sleep(1)
            dying.send(signal.SIGKILL)
            assert await dying.ended(within_s=10) == -signal.SIGKILL
            await successor.start()
            await fixture.until_done()
            assert await successor.stop() == 0
        finally:
            await dying.kill()
            await successor.kill()
        return await fixture.collect_facts()


async def _until_processing(fixture: FaultFixture) -> None:
    """Wait until the emulator processes a prediction."""

    async def is_processing() -> bool | None:
        return fixture.fake.running == 1 or None

    await eventually(is_processing, within_s=40, what="a prediction at work")


@pytest.mark.parametrize("without", [None, "claims"])
async def test_without_claims_a_scene_is_paid_for_twice(
    kafka: KafkaServer, tmp_path: Path, without: str | None
) -> None:
    """Killed during the prediction: the successor adopts it, or pays again."""
    found = checker.violations(await _killed_after_requesting(kafka, tmp_path, without))

    assert found == ([] if without is None else ["charged: scene 0 of requested/1 2 times"])


async def _killed_after_a_slow_scene(
    kafka: KafkaServer, folder: Path, without: str | None
) -> list[Fact]:
    """Kill a generator whose first record is running while later ones are complete."""
    release = Event()

    def held(request: CompositionRequest, source: bytes | None) -> bytes:
        if request.seed == scene_seed("slow", 1, 0, 1):
            release.wait(HELD_S_MAX)
        return compose_cached(request, source)

    async with fault_fixture(kafka, folder, compose=held) as fixture:
        dying = fixture.service("generator", without=without)
        successor = fixture.service("generator", number=2, without=without)
        try:
            await dying.start()
            await fixture.request(["slow"], scenes=1)
            await _until_processing(fixture)
            await fixture.request(["quick", "nimble"], scenes=1)
            await fixture.until_published(2)
            if without is None:
                await asyncio.sleep(COMMITS_S)
            else:
                await fixture.until_committed(GENERATOR_GROUP, SceneRequested.kind)
            dying.send(signal.SIGKILL)
            assert await dying.ended(within_s=10) == -signal.SIGKILL
            release.set()
            await successor.start()
            await successor.ready()
            await fixture.request(["last"], scenes=1)
            await fixture.until_published(3 if without else 4)
            await fixture.until_committed(GENERATOR_GROUP, SceneRequested.kind)
            assert await successor.stop() == 0
        finally:
            release.set()
            await dying.kill()
            await successor.kill()
        return await fixture.collect_facts()


@pytest.mark.parametrize("without", [None, "acks"])
async def test_without_ordered_acks_an_unfinished_scene_is_lost(
    kafka: KafkaServer, tmp_path: Path, without: str | None
) -> None:
    """A record behind the committed offset is not consumed again."""
    found = checker.violations(await _killed_after_a_slow_scene(kafka, tmp_path, without))

    lost = [
        "lost: scene 0 of slow/1 was never published",
        "lost: scene 0 of slow/1 has no segment in the store",
        "lost: segment.generated of slow/1 was never published",
        "committed: scene 0 of slow/1 at 0/0, unfinished",
    ]
    assert found == ([] if without is None else lost)


async def _continues_after_a_dead_letter(
    kafka: KafkaServer, folder: Path, without: str | None
) -> list[Fact]:
    """Publish a scene too early, then the rest of the run again."""
    async with fault_fixture(kafka, folder) as fixture:
        generator = fixture.service("generator", without=without)
        fixture.history.wanted("poisoned", scene_count=3, excused=checker.POISON)
        try:
            await generator.start()
            for index in (0, 2, 1, 2):
                await fixture.publish(a_scene(index, count=3, job_id="poisoned", duration_s=1.7))
            await fixture.request(["neighbour"], scenes=2)
            await fixture.until_done()
            assert await generator.stop() == 0
        finally:
            await generator.kill()
        return await fixture.collect_facts()


@pytest.mark.parametrize("without", [None, "parking"])
async def test_without_parking_a_run_continues_after_its_dead_letter(
    kafka: KafkaServer, tmp_path: Path, without: str | None
) -> None:
    """It was reported as failed; it spends money, and its dead letters are out of order."""
    facts = await _continues_after_a_dead_letter(kafka, tmp_path, without)

    made = [f["value"] for f in facts if f.get("topic") == SegmentGenerated.kind and "value" in f]
    scenes = [value["scene_index"] for value in made if value["job_id"] == "poisoned"]
    continued = ["parked: of poisoned/1 1 dead letters, but 2 were due"]
    assert checker.violations(facts) == ([] if without is None else continued)
    assert scenes == ([0] if without is None else [0, 1, 2])


def _batches() -> list[Batch]:
    """Return batches of `video.stitched`: an invalid event and a valid one."""
    good = encode(
        VideoStitched.model_validate(
            {"job_id": "good", "scenes": [{"description": "a lake", "duration_s": 1.7}]}
        ),
        source="test",
        now=SystemClock().now(),
    )
    values = [(b"bad", b'{"job_id": "bad", "scenes": []}'), (b"good", good.value)]
    records = [
        Record(topic=STITCHED, partition=0, offset=offset, key=key, value=value)
        for offset, (key, value) in enumerate(values)
    ]
    return [
        Batch(topic=STITCHED, partition=0, start=at, end=at + 1, records=(record,))
        for at, record in enumerate(records)
    ]


async def _rows(fixture: ApiFixture, path: Path) -> list[Fact]:
    """Return the final rows of the database as facts."""
    recorder = Recorder(path)
    queries = {
        "projection_offsets": "SELECT topic AS name, next_offset AS held FROM projection_offsets",
        "outbox": "SELECT topic AS name, count(*) AS held FROM outbox GROUP BY topic",
        "jobs": "SELECT job_id AS name, run AS held FROM jobs",
    }
    for table, query in queries.items():
        for row in await fixture.rows(query):
            recorder.row(table, row["name"], {"held": row["held"]})
    return history.read(path)


async def _projected(url: str, folder: Path, *, zombies: int) -> list[Fact]:
    """Apply two batches, then the first again for each zombie; return the final rows."""
    async with api_fixture(url, folder / "store") as fixture:
        async with fixture.context.database.transaction() as connection:
            await offsets.stored(connection, "1", [(STITCHED, 0)])
        first, second = _batches()
        for batch in (first, second):
            await fixture.applier.apply(batch)
        for _ in range(zombies):
            try:
                await fixture.applier.apply(first)
            except StaleBatchError:
                continue
        return await _rows(fixture, folder / "history.jsonl")


@pytest.mark.parametrize("without", [None, "compare-and-set"])
async def test_without_compare_and_set_a_zombie_writes_twice_and_resets_the_offset(
    postgres: Database, tmp_path: Path, without: str | None
) -> None:
    """A resumed projector has a batch that its successor applied: rejected, or applied twice."""
    folders = [tmp_path / "zombie", tmp_path / "expected"]
    for folder in folders:
        folder.mkdir()
    with without_protection(without):
        facts = await _projected(await postgres(), folders[0], zombies=1)
    expected = await _projected(await postgres(), folders[1], zombies=0)

    twice = [f"final row: outbox {STITCHED}.dlq differs"]
    back = [f"final row: projection_offsets {STITCHED} differs"]
    assert len(expected) == 3, "an offset, a dead letter, a job"
    assert checker.differences(facts, expected) == ([] if without is None else twice + back)
