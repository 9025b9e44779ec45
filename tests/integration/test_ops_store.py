"""`segue store`: what nobody needs goes, when it is asked for, and nothing else."""

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
from ops.store.commands import Swept, swept_by
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
NAMED, UNNAMED = k.upload_key("a" * 64), k.upload_key("b" * 64)
NEEDLESS = {
    "orphans": [k.track_key(GONE, 1)],
    "uploads": [UNNAMED],
    "clips": [k.clip_key(ENDED, 1, 0, 1)],
    "claims": [k.claim_key(ENDED, 1, 0, 1), k.prediction_key(ENDED, 1, 0, 1)],
    "cache": [k.cache_key("d" * 64), k.cached_facts_key("d" * 64)],
}
NEEDED = [
    k.segment_key(ENDED, 1, 0),
    k.track_key(ENDED, 1),
    k.video_key(ENDED, 1),
    k.claim_key(OPEN, 1, 0, 1),
    k.clip_key(OPEN, 1, 0, 1),
    NAMED,
]
EVERYTHING = sorted([*NEEDED, *(key for some in NEEDLESS.values() for key in some)])


class LaterClock(SystemClock):
    """Tells a time that is yet to come."""

    @override
    def now(self) -> datetime:
        """In 200 days."""
        return super().now() + timedelta(seconds=OLD_S)


@dataclass(kw_only=True)
class StoreFixture:
    """A database with one job that has ended and one that has not, and the place of a store."""

    api: ApiFixture
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def segue(self, *words: str) -> tuple[int, str]:
        """Run the command; its code, and what it said."""
        environment = {**os.environ, **self.environment}  # noqa: TID251 - the child's
        process = await start_forked("ops", *words, environment=environment, merge_stderr=True)
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    def there(self) -> list[str]:
        """The objects in the folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[StoreFixture]:
    """Its store is a folder, and empty."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        await fixture.apply(*a_complete_run())
        await fixture.edge.store.put(NAMED, b"a film")
        asked = await fixture.post(job_id=OPEN, scenes=TWO_SCENES, video={"object": NAMED})
        assert asked.status_code == 202, asked.text
        yield StoreFixture(
            api=fixture,
            folder=store_folder,
            environment={
                "DATABASE_URL": fixture.url,
                "SEGUE_STORE_DIR": str(store_folder),
                "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
                "SEGUE_OPERATOR": "somebody",
            },
        )


async def filled(fixture: StoreFixture) -> None:
    """Every object, and all of them old."""
    for key in EVERYTHING:
        await fixture.api.edge.store.put(key, b"12345")
        then = time.time() - OLD_S  # noqa: TID251 - as files have it
        os.utime(fixture.folder / key, (then, then))


async def test_a_dry_run_says_what_would_go_and_leaves_it(fixture: StoreFixture) -> None:
    """By kind, with sizes; no audit row, since nothing was done."""
    await filled(fixture)

    code, said = await fixture.segue("store", "sweep", "--json")

    told: dict[str, Any] = json.loads(said)
    assert code == 0
    assert {kind: one["objects"] for kind, one in told["needless"].items()} == {
        kind: len(keys) for kind, keys in NEEDLESS.items()
    }
    assert told["needless"]["claims"]["size_bytes"] == 10
    assert (told["looked_at"], told["applied"]) == (len(EVERYTHING), False)
    assert fixture.there() == EVERYTHING
    assert await fixture.api.rows("SELECT * FROM operator_actions") == []


async def test_applied_it_deletes_that_and_nothing_else_and_writes_down_who_did_it(
    fixture: StoreFixture,
) -> None:
    """A second time there is nothing left to do."""
    await filled(fixture)

    code, said = await fixture.segue("store", "sweep", "--apply", "--reason", "the disk is full")
    again, nothing = await fixture.segue("store", "sweep", "--json")

    assert (code, again) == (0, 0)
    assert "deleted" in said
    assert fixture.there() == sorted(NEEDED)
    assert not any(one["objects"] for one in json.loads(nothing)["needless"].values())
    [row] = await fixture.api.rows("SELECT * FROM operator_actions")
    assert (row["command"], row["who"], row["reason"], row["state"]) == (
        "store sweep",
        "somebody",
        "the disk is full",
        "done",
    )
    assert json.loads(row["progress"])["needless"]["clips"]["objects"] == 1
    assert row["ended_at"] is not None


async def test_without_a_reason_nothing_is_deleted(fixture: StoreFixture) -> None:
    """And the way out is said."""
    await filled(fixture)

    code, said = await fixture.segue("store", "sweep", "--apply")

    assert code == 2
    assert "--reason" in said
    assert fixture.there() == EVERYTHING


async def test_what_is_young_stays(fixture: StoreFixture) -> None:
    """A service may be writing it at this moment."""
    for key in EVERYTHING:
        await fixture.api.edge.store.put(key, b"12345")

    code, _ = await fixture.segue("store", "sweep", "--apply", "--reason", "to see")

    assert code == 0
    assert fixture.there() == EVERYTHING


async def test_a_file_that_is_handed_in_again_is_young_again(fixture: StoreFixture) -> None:
    """Between its hand-in and its job nobody names it."""
    film = film_clips().bikes.read_bytes()
    first = await fixture.api.client.post("/api/v3/videos", content=film)
    key = first.json()["video"]["object"]
    then = time.time() - OLD_S  # noqa: TID251 - as files have it
    os.utime(fixture.folder / key, (then, then))
    await fixture.api.client.post("/api/v3/videos", content=film)

    code, _ = await fixture.segue("store", "sweep", "--apply", "--reason", "to see")

    assert code == 0
    assert set(fixture.there()) == {NAMED, key}


async def test_a_bucket_is_swept_as_a_folder_is(
    fixture: StoreFixture, minio: StoreSettings
) -> None:
    """200 days from now."""
    store = open_store(minio.model_copy(update={"bucket": f"sweep-{secrets.token_hex(6)}"}))
    await store.prepare()
    rows = Rows(fixture.api.edge.settings.database)
    await rows.open()
    try:
        for key in EVERYTHING:
            await store.put(key, b"12345")
        operator = Operator(
            settings=api_settings(fixture.api.url, fixture.folder),
            database=rows,
            store=store,
            who="somebody",
            report=lambda _: None,
            apply=True,
            reason="to see",
            clock=LaterClock(),
        )
        swept: Swept = await swept_by(operator, RetentionSettings())
        left = [found.key async for found in store.list_objects("")]
    finally:
        await rows.close()
        await store.close()

    assert {kind.value: count for kind, count in swept.objects.items() if count} == {
        kind: len(keys) for kind, keys in NEEDLESS.items()
    }
    assert set(NEEDED) <= set(left)
    assert not set(left) & {key for some in NEEDLESS.values() for key in some}


async def test_a_link_reads_the_object_from_anywhere(
    fixture: StoreFixture, minio: StoreSettings
) -> None:
    """A folder says where the file lies instead; a key that is none is told."""
    store = open_store(minio)
    await store.prepare()
    await store.put(k.track_key(ENDED, 1), b"music")
    await store.close()
    key = k.track_key(ENDED, 1)
    await fixture.api.edge.store.put(key, b"music")
    lies = await fixture.segue("store", "link", key)
    fixture.environment |= {
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": minio.endpoint,
        "MINIO_ACCESS_KEY": minio.access_key.get_secret_value(),
        "MINIO_SECRET_KEY": minio.secret_key.get_secret_value(),
        "MINIO_BUCKET": minio.bucket,
    }
    code, url = await fixture.segue("store", "link", key, "--ttl", "60")
    missing = await fixture.segue("store", "link", f"jobs/{job_uuid(GONE)}/nothing")
    wrong = await fixture.segue("store", "link", "../etc/passwd")
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url.strip())

    assert (code, answer.content) == (0, b"music")
    assert lies[0] == 4
    assert str(fixture.folder / key) in lies[1]
    assert (missing[0], "there is no object" in missing[1]) == (4, True)
    assert (wrong[0], "not an object key" in wrong[1]) == (2, True)
