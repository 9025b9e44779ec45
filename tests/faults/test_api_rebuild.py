"""The rows are a function of the log: any consumption order and a rebuild yield the same rows."""

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
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, running_api
from tests.support.api_service import ApiServiceFixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.fork_server import start_forked
from tests.support.processes import eventually
from tests.support.run_builders import (
    a_cancel,
    a_complete_run,
    a_delay,
    a_failure,
    a_track,
    a_video,
)
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
    """Draw the records of three runs of one job, with duplicates, delays and failures."""
    events: list[AnyRunEvent] = []
    for run in (1, 2, 3):
        complete = a_complete_run(run)[: draws.choice((1, 3, 4, 5, 6))]
        extra: list[AnyRunEvent] = [
            a_delay(0, run),
            a_delay(0, run, reason="503"),
            a_delay(1, run),
            a_delay(1, run, over=draws.random() < 0.5),
            a_failure(run, Stage.GENERATION, 1),
            a_failure(run),
            a_cancel(run),
            a_segment(1, count=2, run=run, reason="republished with other content"),
            a_scene(0, count=3, run=run, params=AudioParams()),
            a_track(run, size=2000),
            a_video(run),
        ]
        events += complete + draws.sample(extra, draws.randint(0, 6)) + draws.sample(complete, 1)
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
    """Yield batches, each topic in order; draw the next topic."""
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
async def api(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The api's HTTP application on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def _rows(fixture: ApiFixture) -> _Rows:
    return [await fixture.rows(query) for query in ROWS]


def _differences(rows: _Rows, others: _Rows) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        pair
        for table, other in zip(rows, others, strict=True)
        for pair in zip_longest(table, other, fillvalue=_NO_ROW)
        if pair[0] != pair[1]
    ]


async def _read(
    fixture: ApiFixture, log: dict[str, list[Record]], batches: Iterable[Batch]
) -> None:
    await fixture.rows("TRUNCATE jobs, runs, scenes, projection_offsets")
    async with fixture.context.database.transaction() as connection:
        await offsets.stored(connection, "1", [(topic, 0) for topic in log])
    for batch in batches:
        await fixture.applier.apply(batch)


async def test_every_consumption_order_of_the_topics_yields_the_same_rows(api: ApiFixture) -> None:
    """Superseded runs, late events of older runs, duplicates and contradictions."""
    sys.stdout.write(f"SEGUE_CHAOS_SEED={SEED}\n")
    for number in range(ORDERS // 4):
        draws = random.Random(SEED + number)
        log = _a_history(draws)
        await _read(api, log, _an_order(log, draws))
        first = await _rows(api)
        for again in range(3):
            await _read(api, log, _an_order(log, draws))

            assert not _differences(await _rows(api), first), f"history {number}, order {again}"
    sys.stdout.write(f"consumption orders: {ORDERS}, with different rows: 0\n")


async def _segue(fixture: ApiServiceFixture, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `segue rebuild --json`; return the exit code and the document."""
    process = await start_forked(
        "ops", "rebuild", "--json", *arguments, environment=_environment(fixture)
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode is not None, "the command has ended"
    return process.returncode, json.loads(out)


def _environment(fixture: ApiServiceFixture) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "KAFKA_BOOTSTRAP_SERVERS": fixture.kafka.bootstrap,
        "DATABASE_URL": fixture.url,
        "SEGUE_TOPIC_PREFIX": fixture.prefix,
        "SEGUE_STORE_DIR": str(fixture.folder),
    }


def _of(job_id: str, events: Sequence[Event]) -> list[Event]:
    return [event.model_copy(update={"job_id": job_id}) for event in events]


async def _settled(fixture: ApiServiceFixture, records: int) -> None:
    """Wait until `records` records are projected."""

    async def poll() -> bool | None:
        [row] = await fixture.rows("SELECT sum(next_offset) AS n FROM projection_offsets")
        return row["n"] == records or None

    await eventually(poll, within_s=30, what=f"{records} records projected")


@pytest.fixture
async def fixture(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> ApiServiceFixture:
    """A new database, new topics, a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)


async def test_a_rebuild_yields_the_rows_of_the_live_projection(
    fixture: ApiServiceFixture,
) -> None:
    """While the api runs; manual changes are reported, and repaired with --apply."""
    async with running_api(fixture.settings()) as api:
        for number in range(20):
            for run in (1, 2):
                scenes = [{**scene, "prompt": f"run {run}"} for scene in TWO_SCENES]
                body = {"job_id": f"job-{number}", "scenes": scenes}
                answer = await api.post("/api/v3/audio/generate-scenes", json=body)
                assert answer.status_code == 202, answer.text
        events: list[Event] = []
        for number in range(20):
            older: list[Event] = [a_segment(0, count=2), a_delay(1), a_track(), a_failure()]
            newer = [*a_complete_run(2)[2:], a_delay(1, 2), a_failure(2, Stage.GENERATION, 1)]
            events += _of(f"job-{number}", [*newer[: number % 7], *older[: number % 5]])
        events += _of("upstream's", [*a_complete_run(), a_delay(0, 2)])
        await fixture.publish(*events)
        await _settled(fixture, 80 + len(events))
        before = [await fixture.rows(query) for query in ROWS]

        code, report = await _segue(fixture)
        assert (code, report["identical"]) == (0, True), report
        assert report["records"] == 80 + len(events)
        assert report["tables"]["scenes"]["same"] > 80
        sys.stdout.write(f"rebuild: {report['records']} records, rows different: 0\n")

        for change in (
            "UPDATE runs SET track = NULL, status = 'muxing' WHERE track IS NOT NULL",
            "UPDATE scenes SET state = 'waiting', object_key = NULL WHERE state = 'done'",
            "UPDATE jobs SET progress = '{}' WHERE job_id = 'job-6'",
            "DELETE FROM runs WHERE job_id = 'upstream''s'",
            "DELETE FROM scenes WHERE job_id = 'job-3' AND run = 2",
        ):
            await fixture.rows(change)
        code, report = await _segue(fixture)
        assert (code, report["identical"], report["applied"]) == (1, False, False)
        assert report["tables"]["runs"]["missing"] == 2
        assert report["tables"]["jobs"]["different"] == 1
        assert "job-6" in report["tables"]["jobs"]["examples"]
        code, _ = await _segue(fixture, *WHY)
        assert code == 0
        assert (await _segue(fixture))[1]["identical"]
        assert [await fixture.rows(query) for query in ROWS] == before
        assert (await api.get("/api/v3/audio/status/job-6")).status_code == 200
        assert await fixture.rows("SELECT FROM pg_namespace WHERE nspname = 'segue_rebuild'") == []


async def test_a_killed_rebuild_leaves_the_rows_and_the_next_one_succeeds(
    fixture: ApiServiceFixture,
) -> None:
    """Killed before it replaces the rows; the next rebuild removes its leftovers."""
    async with running_api(fixture.settings()):
        await fixture.publish(*a_complete_run(), *a_complete_run(2))
        await _settled(fixture, 12)
        await fixture.rows("UPDATE runs SET status = 'failed'")
        before = [await fixture.rows(query) for query in ROWS]
        holding = await asyncpg.connect(fixture.url)
        async with holding.transaction():
            await holding.execute("SELECT FROM projection_offsets FOR UPDATE")
            process = await start_forked("ops", "rebuild", *WHY, environment=_environment(fixture))

            async def poll() -> bool | None:
                return (
                    bool(await fixture.rows("SELECT FROM pg_locks WHERE NOT granted LIMIT 1"))
                    or None
                )

            await eventually(poll, within_s=30, what="the rebuild waits for a lock")
            process.kill()
            await process.wait()
        await holding.close()

        assert [await fixture.rows(query) for query in ROWS] == before
        code, report = await _segue(fixture, *WHY)
        assert (code, report["applied"], report["tables"]["runs"]["different"]) == (0, True, 2)
        assert {row["status"] for row in await fixture.rows(ROWS[1])} == {"completed"}


async def test_a_rebuild_keeps_jobs_that_are_older_than_the_log(
    fixture: ApiServiceFixture,
) -> None:
    """Retention removed their first records, so the log is incomplete."""
    async with running_api(fixture.settings()):
        await fixture.publish(*a_complete_run())
        await _settled(fixture, 6)
        admin = AdminClient({"bootstrap.servers": fixture.kafka.bootstrap})
        removed = [
            TopicPartition(f"{fixture.prefix}{topic}", number, 1)
            for topic in ("scene.requested", "audio.merged")
            for number in range(4)
        ]
        for done in admin.delete_records(removed).values():
            with suppress(KafkaException):  # an empty partition has no such offset
                await asyncio.to_thread(done.result, 10)
        before = [await fixture.rows(query) for query in ROWS]

        code, report = await _segue(fixture, *WHY)

        assert (code, report["partitions_cut"], report["jobs_left"]) == (0, 2, 1)
        assert report["tables"]["runs"]["same"] == report["tables"]["runs"]["different"] == 0
        assert [await fixture.rows(query) for query in ROWS] == before


async def test_a_log_that_ends_before_the_rows_is_rejected(fixture: ApiServiceFixture) -> None:
    """It is another log: the rows keep what they have."""
    async with running_api(fixture.settings()):
        await fixture.publish(*a_complete_run())
        await _settled(fixture, 6)
    await fixture.rows("UPDATE projection_offsets SET next_offset = next_offset + 100")
    before = [await fixture.rows(query) for query in ROWS]

    code, report = await _segue(fixture, *WHY)

    assert (code, "this is another log" in report["error"]) == (4, True), report
    assert [await fixture.rows(query) for query in ROWS] == before


async def test_a_run_that_is_still_in_the_outbox_is_no_difference(
    api: ApiFixture, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """The rebuild counts it as not on the log."""
    assert (await api.post(job_id="job-1", scenes=TWO_SCENES)).status_code == 202
    fixture = ApiServiceFixture(api.url, kafka, topic_prefix, tmp_path)

    code, report = await _segue(fixture, *WHY)

    assert (code, report["identical"]) == (0, True)
    assert report["tables"]["runs"]["not_on_the_log"] == 1
    assert (await api.status("job-1"))["state"] == "submitted"
