"""Applying batches on a real database: atomically, once, and a bad record alone fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api.database import offsets
from services.api.projection.apply_batch import Batch, StaleBatchError
from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.kafka.codec import Record, encode
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.event_builders import a_segment
from tests.support.servers import Database

pytestmark = pytest.mark.integration
#: Simulates a bug: no record can cause a database error, as invalid records are rejected before.
TRIP = """
    CREATE FUNCTION trip() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'tripped' USING ERRCODE = 'numeric_value_out_of_range'; END $$
"""
ON_SCENES = """
    CREATE TRIGGER trip BEFORE INSERT ON scenes FOR EACH ROW
    WHEN (NEW.scene_index = 7) EXECUTE FUNCTION trip()
"""


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_a_stale_batch_is_rejected(fixture: ApiFixture) -> None:
    """Two projections apply the same hundred batches; each batch counts once."""
    batches = []
    for offset in range(100):
        event = a_segment(offset, count=100)
        record = encode(event, source="t", now=SystemClock().now())
        read = Record(
            topic=record.topic, partition=0, offset=offset, key=record.key, value=record.value
        )
        batches.append(
            Batch(topic=record.topic, partition=0, start=offset, end=offset + 1, records=(read,))
        )
    async with fixture.context.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    outcomes = []

    async def project() -> None:
        for batch in batches:
            try:
                await fixture.applier.apply(batch)
                outcomes.append((batch.start, "applied"))
            except StaleBatchError:
                outcomes.append((batch.start, "rejected"))

    await asyncio.gather(project(), project())

    assert sorted(outcomes) == sorted(
        (number, how) for number in range(100) for how in ("applied", "rejected")
    )
    assert await fixture.rows("SELECT count(*) AS n FROM scenes") == [{"n": 100}]


async def test_a_record_that_fails_in_the_database_is_dead_lettered(
    fixture: ApiFixture,
) -> None:
    """The dead letter has the traceback; the other records of the batch are applied."""
    await fixture.rows(TRIP)
    await fixture.rows(ON_SCENES)
    events = [a_segment(index, count=9) for index in (0, 7, 1)]
    records = tuple(
        Record(
            topic="segment.generated",
            partition=0,
            offset=offset,
            key=b"job-1",
            value=event.model_dump_json().encode(),
        )
        for offset, event in enumerate(events)
    )
    async with fixture.context.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    await fixture.applier.apply(
        Batch(topic="segment.generated", partition=0, start=0, end=3, records=records)
    )
    scenes = await fixture.rows("SELECT scene_index FROM scenes ORDER BY scene_index")
    [letter] = await fixture.rows("SELECT topic, header_names, header_values FROM outbox")
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))

    assert [scene["scene_index"] for scene in scenes] == [0, 1]
    assert letter["topic"] == "segment.generated.dlq"
    assert b"Traceback" in headers["dlq-stack"]
    assert await fixture.rows("SELECT next_offset FROM projection_offsets") == [{"next_offset": 3}]


async def test_a_failed_batch_is_rolled_back(
    fixture: ApiFixture,
) -> None:
    """Its rows and its offset are one transaction."""
    [record] = [encode(a_segment(0, count=2), source="t", now=SystemClock().now())]
    read = Record(topic=record.topic, partition=7, offset=0, key=record.key, value=record.value)
    batch = Batch(topic=record.topic, partition=7, start=0, end=1, records=(read,))
    async with fixture.context.database.transaction() as connection:
        await offsets.stored(connection, "1", [(record.topic, 7)])
    async with fixture.context.database.transaction() as connection:
        await connection.execute("LOCK TABLE scenes IN ACCESS EXCLUSIVE MODE")
        applying = asyncio.create_task(fixture.applier.apply(batch))
        await _wait_for_lock(fixture)
        await fixture.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with pytest.raises(RetryableError):
            await applying

    assert await fixture.rows("SELECT job_id FROM jobs") == []
    await fixture.applier.apply(batch)
    assert await fixture.rows("SELECT job_id FROM jobs") == [{"job_id": "job-1"}]


async def _wait_for_lock(fixture: ApiFixture) -> None:
    """Return once a query waits for a lock."""
    async with asyncio.timeout(10):
        while not await fixture.rows(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            pass
