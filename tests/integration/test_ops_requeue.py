"""`segue dlq requeue` and `segue dlq discard` on real servers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SystemClock
from shared.contract.events import SceneRequested
from shared.errors import InvalidEventError, UndecodableError
from shared.kafka.codec import Record, encode
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.parked_runs import ParkedLane, ParkedRuns
from shared.kafka.producer import Publisher
from shared.kafka.router import ParkedBehindError
from shared.storage.filesystem import FolderStore
from shared.storage.keys import scene_prefix
from tests.support.api_fixture import TWO_SCENES
from tests.support.event_builders import a_scene
from tests.support.operator_commands import OperatorFixture, operator_fixture, segue
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TOPIC = SceneRequested.kind
LETTERS = f"{TOPIC}.dlq"
WHY = ("--apply", "--reason", "mended")
SCENES = [*TWO_SCENES, {"description": "a storm", "duration_s": 1.9}, TWO_SCENES[0]]


@pytest.fixture
async def pipeline(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Pipeline]:
    """The four services, with two attempts per record."""
    async with running_pipeline(
        *(kafka, postgres, topic_prefix, tmp_path),
        SEGUE_ATTEMPTS_MAX="2",
        SEGUE_BACKOFF_FIRST_S="0.1",
    ) as running:
        yield running


async def letters(pipeline: Pipeline) -> list[Record]:
    """Return the dead letters of `scene.requested`."""
    return await records_of(pipeline.kafka.bootstrap, LETTERS, prefix=pipeline.prefix)


async def wait_for_letters(pipeline: Pipeline, count: int) -> list[Record]:
    """Wait until there are `count` dead letters."""

    async def enough() -> list[Record] | None:
        records = await letters(pipeline)
        return records if len(records) >= count else None

    return await eventually(enough, within_s=60, what=f"{count} dead letters")


async def test_a_requeued_run_continues_and_repeated_failures_are_quarantined(
    pipeline: Pipeline,
) -> None:
    """A file blocks the scene's folder in the store until three requeues have failed."""
    environment = pipeline.services["api"].environment
    place = pipeline.folder / "store" / scene_prefix("j", 1, 1)
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    await pipeline.generate(job_id="j", scenes=SCENES)
    await wait_for_letters(pipeline, 3)
    failed = await pipeline.ended("j")

    log = await records_of(pipeline.kafka.bootstrap, TOPIC, prefix=pipeline.prefix)
    dry = await segue(environment, "dlq", "requeue", "--job", "j")
    untouched = await records_of(pipeline.kafka.bootstrap, TOPIC, prefix=pipeline.prefix)
    for number in (1, 2, 3):
        done = await segue(environment, "dlq", "requeue", "--job", "j", *WHY)
        assert (done[0], done[1]["copied"], done[1]["letters"]) == (0, 3, 3), done
        await wait_for_letters(pipeline, 3 + 3 * number)
    again = await letters(pipeline)
    refused = await segue(environment, "dlq", "requeue", "--job", "j", *WHY)
    listed = await segue(environment, "dlq", "list", "--job", "j", "--all")
    place.unlink()
    mended = await segue(environment, "dlq", "requeue", "--job", "j", "--quarantined", *WHY)

    async def completed() -> dict[str, Any] | None:
        status = await pipeline.status("j")
        return status if status and status["audio_status"]["status"] == "completed" else None

    await eventually(completed, within_s=60, what="the track")
    rows = await segue(environment, "dlq", "list", "--all")
    twice = await segue(environment, "dlq", "requeue", "--job", "j", *WHY)
    after = await records_of(pipeline.kafka.bootstrap, TOPIC, prefix=pipeline.prefix)
    story = await segue(environment, "job", "j")

    assert failed["audio_status"]["status"] == "failed"
    assert dry[1]["lanes"] == [{"topic": TOPIC, "job_id": "j", "run": 1, "is_parked": True}]
    assert (dry[1]["letters"], dry[1]["calls_at_most"], dry[1]["runs"]) == (3, 3, {"failed": 1})
    assert untouched == log
    assert [
        record.header("dlq-requeues") for record in again if record.header("dlq-attempts") != "0"
    ] == [*(None, "1", "2", "3")]
    assert {
        record.header("dlq-requeues") for record in again if record.header("dlq-attempts") == "0"
    } == {*(None, "0")}
    assert len({record.header("dlq-first-failed-at") for record in again[3:]}) == 3, (
        "of three letters"
    )
    assert (refused[0], "--quarantined" in refused[1]["error"]) == (4, True), refused
    assert listed[1]["states"] == {"requeued": 9, "waiting": 2, "quarantined": 1}
    assert (mended[0], mended[1]["copied"]) == (0, 3), mended
    assert rows[1]["states"] == {"requeued": 12}, "none failed again"
    assert (twice[0], "already requeued" in twice[1]["error"]) == (4, True), twice
    this = str(mended[1]["requeue"])
    copies = [record for record in after if record.header("dlq-requeue") == this]
    assert [event["summary"] for event in story[1]["events"] if event["requeue"] == this] == [
        f"scene {scene}/4 requested: {SCENES[scene - 1]['duration_s']:g} s" for scene in (2, 3, 4)
    ]
    assert [value_of(record)["scene_index"] for record in copies] == [1, 2, 3]
    first = {value_of(record)["scene_index"]: record for record in log}
    for copy in copies:
        origin = first[value_of(copy)["scene_index"]]
        assert (copy.partition, copy.key, copy.value) == (
            *(origin.partition, origin.key),
            origin.value,
        )
        assert copy.headers[: len(origin.headers)] == origin.headers
        assert copy.header("dlq-first-origin") == f"{TOPIC}/{origin.partition}/{origin.offset}"
    assert len(after) == len(log) + 4 * 3
    assert await ParkedRuns(FolderStore(pipeline.folder / "store")).state("j", 1, TOPIC) is None


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """Two parked runs with three letters each, alternating, and one letter that is not an event."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        records = [a_record(job, scene) for scene in (2, 0, 1) for job in ("a", "b")]
        await dead_letter(fixture, [*records, a_record("a", 3, value=b'{"half')])
        parked = ParkedRuns(FolderStore(store_folder))
        for job in ("a", "b"):
            await parked.park(job, 1, TOPIC, reason="wrong")
        yield fixture


def a_record(job_id: str, scene: int, *, value: bytes | None = None) -> Record:
    """Return a request as the generator read it; the offset depends on the scene."""
    event = a_scene(scene, count=4).model_copy(update={"job_id": job_id})
    record = encode(event, source="api", now=SystemClock().now())
    return Record(
        topic=TOPIC,
        partition=1,
        offset=10 * (scene + 1) + (job_id == "b"),
        key=record.key,
        value=value or record.value,
        headers=record.headers,
    )


async def dead_letter(fixture: OperatorFixture, records: list[Record]) -> None:
    """Publish dead letters: the first scene of each run failed, the others are parked behind it."""
    publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
    await publisher.start()
    dead = DeadLetters(publisher, service="generator", clock=SystemClock(), consecutive_max=99)
    try:
        for record in records:
            if record.value is not None and record.value.startswith(b'{"half'):
                await dead.publish(record, UndecodableError("no JSON"), attempts=1)
            elif record.offset < 20:
                await dead.publish(record, InvalidEventError("wrong"), attempts=1)
            else:
                await dead.publish(
                    record, ParkedBehindError("parked behind"), attempts=0, is_counted=False
                )
    finally:
        await publisher.stop()


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "nothing is selected"),
    (("weather",), 2, "topic weather not found"),
    (("--place", "somewhere"), 2, "TOPIC/PARTITION/OFFSET"),
    (("--place", f"{TOPIC}/1/99"), 4, f"dead letter {LETTERS}/1/99 not found"),
    (("audio.merged", "--job", "unknown"), 4, "job unknown not found"),
    (("--died-of", "sunshine"), 4, "no waiting dead letter is selected"),
]


async def test_an_invalid_requeue_or_discard_is_rejected_and_changes_nothing(
    fixture: OperatorFixture,
) -> None:
    """Each has its own message, in both commands; --apply needs a reason."""
    before = await fixture.log(TOPIC, LETTERS)
    commands = [("requeue", *case) for case in REFUSED] + [
        ("discard", *case) for case in REFUSED[::3]
    ]
    for at in range(0, len(commands), 4):  # four processes at a time
        some = commands[at : at + 4]
        answers = await asyncio.gather(
            *(fixture.segue("dlq", command, *arguments) for command, arguments, *_ in some)
        )
        for (command, arguments, code, message), answer in zip(some, answers, strict=True):
            assert answer[0] == code, (command, arguments, answer)
            assert message in answer[1]["error"], (command, arguments, answer)
    applied = await fixture.segue("dlq", "requeue", *REFUSED[-1][0], *WHY)
    unreasoned = await fixture.segue("dlq", "requeue", TOPIC, "--apply")
    assert (applied[0], unreasoned[0], "--reason" in unreasoned[1]["error"]) == (4, 2, True)

    assert await fixture.log(TOPIC, LETTERS) == before
    assert await fixture.api.rows("SELECT * FROM operator_actions") == []
    assert await fixture.api.rows("SELECT * FROM dead_letters") == []


async def test_requeueing_one_letter_requeues_its_whole_run_and_no_other(
    fixture: OperatorFixture, store_folder: Path
) -> None:
    """The lane then accepts only the requeued records; the other run stays parked."""
    place = f"{TOPIC}/1/4"  # scene 1 of a
    dry = await fixture.segue("dlq", "requeue", "--place", place)
    silent = await fixture.log(TOPIC)
    done = await fixture.segue("dlq", "requeue", "--place", place, *WHY)
    twice = await fixture.segue("dlq", "requeue", "--place", place, *WHY)
    rest = await fixture.segue("dlq", "requeue", TOPIC, *WHY)
    shown = await fixture.segue("dlq", "show", place)
    log = await fixture.log(TOPIC)

    assert (dry[0], dry[1]["letters"], dry[1]["added"], silent) == (0, 3, 2, [])
    assert (done[0], done[1]["copied"]) == (0, 3)
    assert (twice[0], "was already requeued" in twice[1]["error"]) == (4, True), twice
    assert (rest[0], rest[1]["copied"], rest[1]["unreadable"]) == (0, 4, 1)
    assert rest[1]["left_out"] == {"requeued": 3}
    assert (shown[1]["state"], shown[1]["action"]) == ("requeued", done[1]["requeue"])
    assert {record.partition for record in log} == {1}
    headers = [(record.header("dlq-requeue"), record.header("dlq-requeue-of")) for record in log]
    first, second = str(done[1]["requeue"]), str(rest[1]["requeue"])
    assert headers[:3] == [(first, f"{LETTERS}/1/{at}") for at in (2, 4, 0)]
    assert [at for number, at in headers if number == second] == [
        f"{LETTERS}/1/{at}" for at in (3, 5, 1, 6)
    ]
    assert [record.header("dlq-requeue-last") for record in log[:3]] == [None, None, "true"]
    parked = ParkedRuns(FolderStore(store_folder))
    assert await parked.state("a", 1, TOPIC) == ParkedLane(open_for=first)
    [row] = await fixture.api.rows(
        "SELECT who, reason, state FROM operator_actions WHERE id = $1", done[1]["requeue"]
    )
    assert row == {"who": "an-operator", "reason": "mended", "state": "done"}


async def test_a_lane_with_an_unprocessed_requeue_is_not_requeued_again(
    fixture: OperatorFixture,
) -> None:
    """No service runs: letters that are parked meanwhile must wait."""
    await fixture.segue("dlq", "requeue", "--job", "a", "--died-of", "wrong", *WHY)
    await dead_letter(fixture, [a_record("a", 3)])
    refused = await fixture.segue("dlq", "requeue", "--job", "a", "--died-of", "behind", *WHY)

    assert (refused[0], "is the service running?" in refused[1]["error"]) == (4, True), refused
    assert len(await fixture.log(TOPIC)) == 3


async def test_discarding_letters_releases_their_run_only_with_release(
    fixture: OperatorFixture, store_folder: Path
) -> None:
    """Nothing is published; a second discard has nothing left to discard."""
    parked = ParkedRuns(FolderStore(store_folder))
    one_letter = ("dlq", "discard", "--place", f"{TOPIC}/1/2")
    dry = await fixture.segue(*one_letter, "--release")
    done = await fixture.segue(*one_letter, "--release", *WHY)
    stays = await parked.state("a", 1, TOPIC)
    rest = await fixture.segue("dlq", "discard", "--job", "a", *WHY)
    still = await parked.state("a", 1, TOPIC)
    freed = await fixture.segue("dlq", "discard", "--job", "a", "--release", *WHY)
    twice = await fixture.segue("dlq", "discard", "--job", "a", "--release", *WHY)
    requeue = await fixture.segue("dlq", "requeue", "--job", "a", *WHY)
    listed = await fixture.segue("dlq", "list", "--all")

    assert (dry[0], dry[1]["letters"], dry[1]["released"]) == (0, 1, [])
    assert (done[0], len(done[1]["stay_parked"])) == (0, 1), "two of its letters wait"
    assert (rest[0], rest[1]["letters"], rest[1]["left_out"]) == (
        *(0, 3),
        {"already discarded": 1},
    )
    assert stays == still == ParkedLane()
    assert (freed[0], freed[1]["letters"], len(freed[1]["released"])) == (0, 0, 1), freed
    assert await parked.state("a", 1, TOPIC) is None
    assert await parked.state("b", 1, TOPIC) == ParkedLane()
    assert (twice[0], requeue[0]) == (4, 4)
    assert "already discarded" in requeue[1]["error"]
    assert listed[1]["states"] == {"discarded": 4, "waiting": 3}
    assert listed[1]["count"] == 7
    assert await fixture.log(TOPIC) == []


async def test_a_requeue_is_rejected_until_a_discard_has_ended(fixture: OperatorFixture) -> None:
    """Otherwise both would resolve the same letters; the discard waits for its claims here."""

    async def is_running() -> bool | None:
        rows = "SELECT 1 FROM operator_actions WHERE state = 'running'"
        return bool(await fixture.api.rows(rows)) or None

    async with fixture.api.context.database.transaction() as connection:
        await connection.execute("LOCK TABLE dead_letters IN EXCLUSIVE MODE")
        discard = asyncio.create_task(fixture.segue("dlq", "discard", "--job", "a", *WHY))
        await eventually(is_running, within_s=60, what="a running discard")
        requeue = await fixture.segue("dlq", "requeue", "--job", "a", *WHY)
    discarded = await discard

    assert requeue[0] == 4, requeue
    assert "is running since" in requeue[1]["error"]
    assert (discarded[0], discarded[1]["letters"]) == (0, 4)
    assert await fixture.log(TOPIC) == []
