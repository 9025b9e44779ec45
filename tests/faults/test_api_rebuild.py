"""The rows are a function of the log: any order of reading, and a rebuild, end in the same ones."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from services.api.database import offsets
from services.api.domain.run_view import AnyRunEvent
from services.api.projection.apply_batch import Batch
from shared.contract.events import Event, Stage
from shared.contract.params import AudioParams
from shared.kafka.codec import Record, encode
from tests.faults.harness.durations import SEED, long_or
from tests.support.api_fixture import TWO_SCENES, EdgeLine, edge_line, running_api
from tests.support.api_service import Line
from tests.support.event_builders import a_scene, a_segment
from tests.support.processes import REPOSITORY, eventually
from tests.support.run_builders import a_cancel, a_delay, a_failure, a_track, a_video, the_line
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_Rows = list[list[dict[str, Any]]]
_NO_ROW: dict[str, Any] = {}
WHY = ("--apply", "--reason", "to see")
ORDERS = long_or(long=400, short=40)
START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = (
    "SELECT job_id, run, progress FROM jobs ORDER BY job_id",
    "SELECT * FROM runs ORDER BY job_id, run",
    "SELECT * FROM scenes ORDER BY job_id, run, scene_index",
)


def _a_history(draws: random.Random) -> dict[str, list[Record]]:
    """Three runs of one job as six topics tell them, with repetitions, waits and failures."""
    events: list[AnyRunEvent] = []
    for run in (1, 2, 3):
        told = the_line(run)[: draws.choice((1, 3, 4, 5, 6))]
        extra: list[AnyRunEvent] = [
            a_delay(0, run),
            a_delay(0, run, reason="503"),
            a_delay(1, run),
            a_delay(1, run, over=draws.random() < 0.5),
            a_failure(run, Stage.GENERATION, 1),
            a_failure(run),
            a_cancel(run),
            a_segment(1, count=2, run=run, reason="said again, otherwise"),
            a_scene(0, count=3, run=run, params=AudioParams()),
            a_track(run, size=2000),
            a_video(run),
        ]
        events += told + draws.sample(extra, draws.randint(0, 6)) + draws.sample(told, 1)
    draws.shuffle(events)
    log: dict[str, list[Record]] = {}
    for place, event in enumerate(events):
        out = encode(event, source="t", now=START + timedelta(seconds=place))
        records = log.setdefault(out.topic, [])
        records.append(
            Record(
                topic=out.topic,
                partition=0,
                offset=len(records),
                key=out.key,
                value=out.value,
                headers=out.headers,
            )
        )
    return log


def _an_order(log: dict[str, list[Record]], draws: random.Random) -> Iterable[Batch]:
    """Batches of every topic in its own order; which topic comes next is drawn."""
    places = dict.fromkeys(log, 0)
    while open_ := [topic for topic, at in places.items() if at < len(log[topic])]:
        topic = draws.choice(open_)
        start = places[topic]
        end = min(start + draws.randint(1, 4), len(log[topic]))
        places[topic] = end
        yield Batch(
            topic=topic, partition=0, start=start, end=end, records=tuple(log[topic][start:end])
        )


@pytest.fixture
async def edge(postgres: Database, store_folder: Path) -> AsyncIterator[EdgeLine]:
    """The edge on a new database."""
    async with edge_line(await postgres(), store_folder) as line:
        yield line


async def _rows(line: EdgeLine) -> _Rows:
    return [await line.rows(query) for query in ROWS]


def _differences(rows: _Rows, others: _Rows) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        pair
        for table, other in zip(rows, others, strict=True)
        for pair in zip_longest(table, other, fillvalue=_NO_ROW)
        if pair[0] != pair[1]
    ]


async def _read(line: EdgeLine, log: dict[str, list[Record]], batches: Iterable[Batch]) -> None:
    await line.rows("TRUNCATE jobs, runs, scenes, projection_offsets")
    async with line.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [(topic, 0) for topic in log])
    for batch in batches:
        await line.applier.apply(batch)


async def test_any_order_in_which_topics_are_read_ends_in_the_same_rows(edge: EdgeLine) -> None:
    """Runs that supersede one another, late facts of older ones, repetitions, contradictions."""
    sys.stdout.write(f"SEGUE_CHAOS_SEED={SEED}\n")
    for number in range(ORDERS // 4):
        draws = random.Random(SEED + number)
        log = _a_history(draws)
        await _read(edge, log, _an_order(log, draws))
        first = await _rows(edge)
        for again in range(3):
            await _read(edge, log, _an_order(log, draws))

            assert not _differences(await _rows(edge), first), f"history {number}, order {again}"
    sys.stdout.write(f"orders of reading: {ORDERS}, with other rows: 0\n")


async def _segue(line: Line, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`segue rebuild --json` with the addresses, and the test's own prefix."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ops", "rebuild", "--json", *arguments),
        cwd=REPOSITORY,
        env=_environment(line),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode is not None, "it has ended"
    return process.returncode, json.loads(out)


def _environment(line: Line) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "KAFKA_BOOTSTRAP_SERVERS": line.kafka.bootstrap,
        "DATABASE_URL": line.url,
        "SEGUE_TOPIC_PREFIX": line.prefix,
        "SEGUE_STORE_DIR": str(line.folder),
    }


def _of(job_id: str, events: Sequence[Event]) -> list[Event]:
    return [event.model_copy(update={"job_id": job_id}) for event in events]


async def _settled(line: Line, records: int) -> None:
    """Wait until so many records were projected."""

    async def look() -> bool | None:
        [row] = await line.rows("SELECT sum(next_offset) AS n FROM projection_offsets")
        return row["n"] == records or None

    await eventually(look, within_s=30, what=f"{records} records projected")


@pytest.fixture
async def line(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> Line:
    """A new database, new topics, a new store."""
    return Line(await postgres(), kafka, topic_prefix, store_folder)


async def test_a_rebuild_ends_in_the_rows_that_the_live_projection_made(line: Line) -> None:
    """Beside a serving api; what somebody changed by hand is found, and mended when asked."""
    async with running_api(line.settings()) as api:
        for number in range(20):
            for run in (1, 2):
                scenes = [{**scene, "prompt": f"run {run}"} for scene in TWO_SCENES]
                body = {"job_id": f"job-{number}", "scenes": scenes}
                answer = await api.post("/api/v3/audio/generate-scenes", json=body)
                assert answer.status_code == 202, answer.text
        told: list[Event] = []
        for number in range(20):
            older: list[Event] = [a_segment(0, count=2), a_delay(1), a_track(), a_failure()]
            newer = [*the_line(2)[2:], a_delay(1, 2), a_failure(2, Stage.GENERATION, 1)]
            told += _of(f"job-{number}", [*newer[: number % 7], *older[: number % 5]])
        told += _of("upstream's", [*the_line(), a_delay(0, 2)])
        await line.say(*told)
        await _settled(line, 80 + len(told))
        before = [await line.rows(query) for query in ROWS]

        code, found = await _segue(line)
        assert (code, found["identical"]) == (0, True), found
        assert found["records"] == 80 + len(told)
        assert found["tables"]["scenes"]["same"] > 80
        sys.stdout.write(f"rebuild: {found['records']} records, rows different: 0\n")

        for change in (
            "UPDATE runs SET track = NULL, status = 'muxing' WHERE track IS NOT NULL",
            "UPDATE scenes SET state = 'waiting', object_key = NULL WHERE state = 'done'",
            "UPDATE jobs SET progress = '{}' WHERE job_id = 'job-6'",
            "DELETE FROM runs WHERE job_id = 'upstream''s'",
            "DELETE FROM scenes WHERE job_id = 'job-3' AND run = 2",
        ):
            await line.rows(change)
        code, found = await _segue(line)
        assert (code, found["identical"], found["applied"]) == (1, False, False)
        assert found["tables"]["runs"]["missing"] == 2
        assert found["tables"]["jobs"]["different"] == 1
        assert "job-6" in found["tables"]["jobs"]["examples"]
        code, _ = await _segue(line, *WHY)
        assert code == 0
        assert (await _segue(line))[1]["identical"]
        assert [await line.rows(query) for query in ROWS] == before
        assert (await api.get("/api/v3/audio/status/job-6")).status_code == 200
        assert await line.rows("SELECT FROM pg_namespace WHERE nspname = 'segue_rebuild'") == []


async def test_a_rebuild_that_dies_leaves_the_rows_and_the_next_one_goes_through(
    line: Line,
) -> None:
    """Killed between its two sets of rows; what it left lying is gone afterwards."""
    async with running_api(line.settings()):
        await line.say(*the_line(), *the_line(2))
        await _settled(line, 12)
        await line.rows("UPDATE runs SET status = 'failed'")
        before = [await line.rows(query) for query in ROWS]
        holding = await asyncpg.connect(line.url)
        async with holding.transaction():
            await holding.execute("SELECT FROM projection_offsets FOR UPDATE")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ops", "rebuild", *WHY),
                cwd=REPOSITORY,
                env=_environment(line),
            )

            async def look() -> bool | None:
                return (
                    bool(await line.rows("SELECT FROM pg_locks WHERE NOT granted LIMIT 1")) or None
                )

            await eventually(look, within_s=30, what="the rebuild at its last step")
            process.kill()
            await process.wait()
        await holding.close()

        assert [await line.rows(query) for query in ROWS] == before
        code, found = await _segue(line, *WHY)
        assert (code, found["applied"], found["tables"]["runs"]["different"]) == (0, True, 2)
        assert {row["status"] for row in await line.rows(ROWS[1])} == {"completed"}


async def test_jobs_older_than_what_is_left_of_the_log_are_left_as_they_are(line: Line) -> None:
    """Their first records were removed by age: what is left of them would say too little."""
    async with running_api(line.settings()):
        await line.say(*the_line())
        await _settled(line, 6)
        admin = AdminClient({"bootstrap.servers": line.kafka.bootstrap})
        gone = [
            TopicPartition(f"{line.prefix}{topic}", number, 1)
            for topic in ("scene.requested", "audio.merged")
            for number in range(4)
        ]
        for done in admin.delete_records(gone).values():
            with suppress(KafkaException):  # an empty partition has no such offset
                await asyncio.to_thread(done.result, 10)
        before = [await line.rows(query) for query in ROWS]

        code, found = await _segue(line, *WHY)

        assert (code, found["partitions_cut"], found["jobs_left"]) == (0, 2, 1)
        assert found["tables"]["runs"]["same"] == found["tables"]["runs"]["different"] == 0
        assert [await line.rows(query) for query in ROWS] == before


async def test_a_run_that_is_not_on_the_log_yet_is_no_difference(
    edge: EdgeLine, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """It waits in the outbox; the rebuild leaves it alone."""
    assert (await edge.post(job_id="job-1", scenes=TWO_SCENES)).status_code == 202
    line = Line(edge.url, kafka, topic_prefix, tmp_path)

    code, found = await _segue(line, *WHY)

    assert (code, found["identical"]) == (0, True)
    assert found["tables"]["runs"]["not_on_the_log"] == 1
    assert (await edge.status("job-1"))["state"] == "submitted"
