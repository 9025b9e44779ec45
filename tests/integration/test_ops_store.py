"""Tests of `segue store`: it deletes the eligible objects, and no others."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from ops.cli.operator import Operator
from ops.store.commands import SweepResult, sweep_store
from ops.store.retention import RetentionSettings
from services.api.database import Database as Rows
from shared.clock import SystemClock
from shared.contract.ids import job_uuid
from shared.settings import StoreSettings
from shared.storage import keys as k
from shared.storage.factory import open_store
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, api_settings
from tests.support.film_clips import film_clips
from tests.support.fork_server import start_forked
from tests.support.run_builders import a_complete_run
from tests.support.servers import Database

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
OLD_S = 200 * 86_400.0
ENDED, OPEN, GONE = "job-1", "open", "gone"
REFERENCED, UNREFERENCED = k.upload_key("a" * 64), k.upload_key("b" * 64)
ELIGIBLE = {
    "orphans": [k.track_key(GONE, 1)],
    "uploads": [UNREFERENCED],
    "clips": [k.clip_key(ENDED, 1, 0, 1)],
    "claims": [k.claim_key(ENDED, 1, 0, 1), k.prediction_key(ENDED, 1, 0, 1)],
    "cache": [k.cache_key("d" * 64), k.cached_facts_key("d" * 64)],
    "dead letters": [k.dead_letter_key("e" * 64)],
}
KEPT = [
    k.segment_key(ENDED, 1, 0),
    k.track_key(ENDED, 1),
    k.video_key(ENDED, 1),
    k.claim_key(OPEN, 1, 0, 1),
    k.clip_key(OPEN, 1, 0, 1),
    REFERENCED,
]
EVERYTHING = sorted([*KEPT, *(key for keys in ELIGIBLE.values() for key in keys)])


class LaterClock(SystemClock):
    """A clock that is 200 days ahead."""

    @override
    def now(self) -> datetime:
        """Return the time in 200 days."""
        return super().now() + timedelta(seconds=OLD_S)


@dataclass(kw_only=True)
class StoreFixture:
    """A database with an ended and an unfinished job, and the folder of a store."""

    api: ApiFixture
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def segue(self, *arguments: str) -> tuple[int, str]:
        """Run the command; return its exit code and output."""
        environment = {**os.environ, **self.environment}  # noqa: TID251 - the child's
        process = await start_forked("ops", *arguments, environment=environment, merge_stderr=True)
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    def objects(self) -> list[str]:
        """Return the keys of the objects in the folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[StoreFixture]:
    """Yield the database and a folder store with one uploaded film."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        await fixture.apply(*a_complete_run())
        await fixture.context.store.put(REFERENCED, b"a film")
        response = await fixture.post(job_id=OPEN, scenes=TWO_SCENES, video={"object": REFERENCED})
        assert response.status_code == 202, response.text
        yield StoreFixture(
            api=fixture,
            folder=store_folder,
            environment={
                "DATABASE_URL": fixture.url,
                "SEGUE_STORE_DIR": str(store_folder),
                "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
                "SEGUE_OPERATOR": "alice",
            },
        )


async def put_old_objects(fixture: StoreFixture) -> None:
    """Put every object into the folder, all of them old."""
    for key in EVERYTHING:
        await fixture.api.context.store.put(key, b"12345")
        modified_s = time.time() - OLD_S  # noqa: TID251 - file times
        os.utime(fixture.folder / key, (modified_s, modified_s))


async def test_a_dry_run_counts_the_eligible_objects_and_deletes_none(
    fixture: StoreFixture,
) -> None:
    """Objects and bytes are counted by kind; there is no audit row."""
    await put_old_objects(fixture)

    code, output = await fixture.segue("store", "sweep", "--json")

    result: dict[str, Any] = json.loads(output)
    assert code == 0
    assert {kind: counts["objects"] for kind, counts in result["eligible"].items()} == {
        kind: len(keys) for kind, keys in ELIGIBLE.items()
    }
    assert result["eligible"]["claims"]["size_bytes"] == 10
    assert (result["scanned"], result["applied"]) == (len(EVERYTHING), False)
    assert fixture.objects() == EVERYTHING
    assert await fixture.api.rows("SELECT * FROM operator_actions") == []


async def test_an_applied_sweep_deletes_the_eligible_objects_and_is_audited(
    fixture: StoreFixture,
) -> None:
    """A second sweep finds none."""
    await put_old_objects(fixture)

    code, output = await fixture.segue("store", "sweep", "--apply", "--reason", "the disk is full")
    second_code, second = await fixture.segue("store", "sweep", "--json")

    assert (code, second_code) == (0, 0)
    assert "deleted" in output
    assert fixture.objects() == sorted(KEPT)
    assert not any(counts["objects"] for counts in json.loads(second)["eligible"].values())
    [row] = await fixture.api.rows("SELECT * FROM operator_actions")
    assert (row["command"], row["who"], row["reason"], row["state"]) == (
        "store sweep",
        "alice",
        "the disk is full",
        "done",
    )
    assert json.loads(row["progress"])["eligible"]["clips"]["objects"] == 1
    assert row["ended_at"] is not None


async def test_without_a_reason_nothing_is_deleted(fixture: StoreFixture) -> None:
    """The error names the option."""
    await put_old_objects(fixture)

    code, output = await fixture.segue("store", "sweep", "--apply")

    assert code == 2
    assert "--reason" in output
    assert fixture.objects() == EVERYTHING


async def test_young_objects_are_not_deleted(fixture: StoreFixture) -> None:
    """A service may be writing them."""
    for key in EVERYTHING:
        await fixture.api.context.store.put(key, b"12345")

    code, _ = await fixture.segue("store", "sweep", "--apply", "--reason", "to see")

    assert code == 0
    assert fixture.objects() == EVERYTHING


async def test_a_file_that_is_uploaded_again_is_young_again(fixture: StoreFixture) -> None:
    """Between its upload and its job no job references it."""
    film = film_clips().bikes.read_bytes()
    first = await fixture.api.client.post("/api/v3/videos", content=film)
    key = first.json()["video"]["object"]
    modified_s = time.time() - OLD_S  # noqa: TID251 - file times
    os.utime(fixture.folder / key, (modified_s, modified_s))
    await fixture.api.client.post("/api/v3/videos", content=film)

    code, _ = await fixture.segue("store", "sweep", "--apply", "--reason", "to see")

    assert code == 0
    assert set(fixture.objects()) == {REFERENCED, key}


async def test_a_bucket_is_swept_as_a_folder_is(
    fixture: StoreFixture, minio: StoreSettings
) -> None:
    """The objects are 200 days old by the operator's clock."""
    store = open_store(minio.model_copy(update={"bucket": f"sweep-{secrets.token_hex(6)}"}))
    await store.prepare()
    rows = Rows(fixture.api.context.settings.database)
    await rows.open()
    try:
        for key in EVERYTHING:
            await store.put(key, b"12345")
        operator = Operator(
            settings=api_settings(fixture.api.url, fixture.folder),
            database=rows,
            store=store,
            who="alice",
            report=lambda _: None,
            apply=True,
            reason="to see",
            clock=LaterClock(),
        )
        result: SweepResult = await sweep_store(operator, RetentionSettings())
        left = [stat.key async for stat in store.list_objects("")]
    finally:
        await rows.close()
        await store.close()

    assert {kind.value: count for kind, count in result.objects.items() if count} == {
        kind: len(keys) for kind, keys in ELIGIBLE.items()
    }
    assert set(KEPT) <= set(left)
    assert not set(left) & {key for keys in ELIGIBLE.values() for key in keys}


async def test_a_link_reads_the_object_without_an_account(
    fixture: StoreFixture, minio: StoreSettings
) -> None:
    """A folder store prints the path instead; an invalid key is rejected."""
    store = open_store(minio)
    await store.prepare()
    await store.put(k.track_key(ENDED, 1), b"music")
    await store.close()
    key = k.track_key(ENDED, 1)
    await fixture.api.context.store.put(key, b"music")
    of_folder = await fixture.segue("store", "link", key)
    fixture.environment |= {
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": minio.endpoint,
        "MINIO_ACCESS_KEY": minio.access_key.get_secret_value(),
        "MINIO_SECRET_KEY": minio.secret_key.get_secret_value(),
        "MINIO_BUCKET": minio.bucket,
    }
    code, url = await fixture.segue("store", "link", key, "--ttl", "60")
    missing = await fixture.segue("store", "link", f"jobs/{job_uuid(GONE)}/nothing")
    invalid = await fixture.segue("store", "link", "../etc/passwd")
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(url.strip())

    assert (code, response.content) == (0, b"music")
    assert of_folder[0] == 4
    assert str(fixture.folder / key) in of_folder[1]
    assert (missing[0], " not found" in missing[1]) == (4, True)
    assert (invalid[0], "not an object key" in invalid[1]) == (2, True)
