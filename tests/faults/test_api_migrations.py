"""Old and new code on one database, and apis that migrate concurrently."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.api.database import Database as ApiDatabase
from services.api.database.migrate import MigrationChangedError, migrate, migrations
from tests.support.api_fixture import TWO_SCENES, api_fixture, api_settings
from tests.support.run_builders import a_complete_run
from tests.support.servers import Database

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: the SQL statements of the first release, in the order of a job; never edited
RELEASED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (
        (
            "INSERT INTO jobs (job_id, created_at, updated_at) "
            "SELECT job_id, $2, $2 FROM unnest($1::text[]) AS job_id ON CONFLICT DO NOTHING"
        ),
        (["old"], NOW),
    ),
    (
        (
            "SELECT job_id, run, video, scenes, audio_params, stitched_hashes "
            'FROM jobs WHERE job_id = ANY($1::text[]) ORDER BY job_id COLLATE "C" FOR UPDATE'
        ),
        (["old"],),
    ),
    (
        (
            "INSERT INTO runs (job_id, run, status, scene_count, params, video, request_hash, "
            "started_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
        ),
        ("old", 1, "submitted", 2, "{}", None, "digest", NOW),
    ),
    (
        (
            "INSERT INTO scenes (job_id, run, scene_index, spec, state, duration_s) "
            "SELECT $1, $2, place - 1, spec, 'waiting', (spec->>'duration_s')::float8 "
            "FROM unnest($3::jsonb[]) WITH ORDINALITY AS given (spec, place)"
        ),
        ("old", 1, [json.dumps(scene) for scene in TWO_SCENES]),
    ),
    (
        (
            "UPDATE runs SET status = 'superseded' "
            "FROM unnest($1::text[], $2::integer[]) AS newest (job_id, run) "
            "WHERE runs.job_id = newest.job_id AND runs.run < newest.run AND runs.status = ANY($3)"
        ),
        (["old"], [1], ["submitted", "generating", "merging", "muxing"]),
    ),
    (
        (
            "UPDATE jobs SET run = $2, progress = $3, video = COALESCE(video, $4), "
            "version = version + 1, updated_at = $5 WHERE job_id = $1"
        ),
        ("old", 1, json.dumps({"audio_status": "processing", "percentage": 0}), None, NOW),
    ),
    (
        (
            "INSERT INTO outbox (topic, key, value, header_names, header_values, created_at) "
            "VALUES ($1, $2, $3, $4, $5, $6)"
        ),
        ("scene.requested", b"old", b"{}", ["ce_id"], [b"1"], NOW),
    ),
    (
        (
            "INSERT INTO projection_offsets (epoch, topic, partition, next_offset) "
            "SELECT $1, topic, partition, 0 FROM unnest($2::text[], $3::integer[]) "
            "AS given (topic, partition) ORDER BY topic, partition ON CONFLICT DO NOTHING"
        ),
        ("old", ["segment.generated"], [0]),
    ),
    (
        (
            "UPDATE projection_offsets SET next_offset = $5 WHERE epoch = $1 AND topic = $2 "
            "AND partition = $3 AND next_offset = $4 RETURNING true"
        ),
        ("old", "segment.generated", 0, 0, 1),
    ),
    (
        (
            "INSERT INTO runs (job_id, run, status, scene_count, params, video, started_at, "
            "generated_at, track, muxed, failure, cancelled) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
            "ON CONFLICT (job_id, run) DO UPDATE SET status = excluded.status, "
            "scene_count = excluded.scene_count, params = excluded.params, video = excluded.video, "
            "track = excluded.track, muxed = excluded.muxed, failure = excluded.failure, "
            "cancelled = excluded.cancelled, generated_at = excluded.generated_at"
        ),
        ("old", 1, "generating", 2, "{}", None, NOW, None, None, None, None, None),
    ),
    (
        (
            "INSERT INTO scenes AS s (job_id, run, scene_index, state, origin, reason, object_key, "
            "duration_s, samples, provider, prediction_id, generation_s, cost_usd, warnings) "
            "VALUES ($1, $2, $3, 'done', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) "
            "ON CONFLICT (job_id, run, scene_index) DO UPDATE SET state = 'done', "
            "origin = excluded.origin, object_key = excluded.object_key"
        ),
        ("old", 1, 0, "fresh", None, "jobs/x", 1.7, 81_600, "synth", None, 0.1, 0.0, []),
    ),
    ("INSERT INTO epochs (epoch, started_at) VALUES ($1, $2) ON CONFLICT DO NOTHING", ("e", NOW)),
    (
        "INSERT INTO idempotency_keys (key, request_hash, created_at) VALUES ($1, $2, $3)",
        ("key", "digest", NOW),
    ),
    ("DELETE FROM outbox WHERE id = ANY($1::bigint[])", ([1],)),
)


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[ApiDatabase]:
    """Yield the api's connection pool on this database."""
    database = ApiDatabase(api_settings(url, folder).database)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def test_the_statements_of_the_first_release_still_work(
    postgres: Database, store_folder: Path
) -> None:
    """On the current schema; the current api reads the rows that they wrote."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        old = await asyncpg.connect(fixture.url)
        for statement, values in RELEASED:
            await old.fetch(statement, *values)
        await old.close()
        status = await fixture.status("old")

        assert status["state"] == "generating"
        assert [scene["state"] for scene in status["progress"]["scenes"]] == ["done", "generating"]
        later = [event.model_copy(update={"job_id": "old"}) for event in a_complete_run()]
        await fixture.apply(*later)
        assert (await fixture.status("old"))["state"] == "completed"


async def test_every_migration_only_adds(postgres: Database) -> None:
    """No table or column is dropped, renamed, narrowed or made required."""
    connection = await asyncpg.connect(await postgres())
    before: dict[tuple[str, str], tuple[str, bool]] = {}
    try:
        for number, sql in migrations():
            await connection.execute(sql)
            rows = await connection.fetch(
                "SELECT table_name, column_name, data_type, column_default IS NOT NULL "
                "OR is_nullable = 'YES' OR is_identity = 'YES' AS may_be_left_out "
                "FROM information_schema.columns WHERE table_schema = 'public'"
            )
            now = {
                (row["table_name"], row["column_name"]): (row["data_type"], row["may_be_left_out"])
                for row in rows
            }
            tables = {table for table, _ in before}
            added = {key for key in now.keys() - before.keys() if key[0] in tables}

            assert {key: now.get(key) for key in before} == before, f"migration {number}"
            assert all(now[key][1] for key in added), (
                f"migration {number}: old code does not set it"
            )
            before = now
    finally:
        await connection.close()


async def test_concurrent_apis_apply_each_migration_once(
    postgres: Database, store_folder: Path
) -> None:
    """Five apis on an empty database."""
    url = await postgres()
    databases = [ApiDatabase(api_settings(url, store_folder).database) for _ in range(5)]
    await asyncio.gather(*(database.open() for database in databases))
    try:
        applied = await asyncio.gather(*(migrate(database) for database in databases))
    finally:
        await asyncio.gather(*(database.close() for database in databases))

    assert sorted(number for numbers in applied for number in numbers) == [
        number for number, _ in migrations()
    ]


async def test_migrations_applied_by_an_older_version_get_their_checksum(
    postgres: Database, store_folder: Path
) -> None:
    """A database of the version before checksums opens, and its checksums are stored."""
    url = await postgres()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "CREATE TABLE schema_migrations "
            "(number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for migration in migrations():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number) VALUES ($1)", migration.number
            )
        async with opened(url, store_folder) as database:
            applied = [await migrate(database), await migrate(database)]
        rows = await connection.fetch("SELECT number, checksum FROM schema_migrations")
    finally:
        await connection.close()

    assert applied == [[], []]
    assert {(row["number"], row["checksum"]) for row in rows} == {
        (migration.number, migration.checksum) for migration in migrations()
    }


async def test_an_edited_applied_migration_stops_the_start(
    postgres: Database, store_folder: Path
) -> None:
    """The error names the migration; nothing is applied, and the stored checksum remains."""
    url = await postgres()
    connection = await asyncpg.connect(url)
    try:
        async with opened(url, store_folder) as database:
            await migrate(database)
            await connection.execute(
                "UPDATE schema_migrations SET checksum = 'of another text' WHERE number = 3"
            )
            await connection.execute("DELETE FROM schema_migrations WHERE number = 6")
            with pytest.raises(MigrationChangedError, match="migration 0003 was edited after"):
                await migrate(database)
        numbers = [
            row["number"]
            for row in await connection.fetch(
                "SELECT number FROM schema_migrations ORDER BY number"
            )
        ]
    finally:
        await connection.close()

    assert numbers == [migration.number for migration in migrations() if migration.number != 6]
