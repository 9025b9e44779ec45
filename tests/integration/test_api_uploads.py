"""Uploads that no job references: their quota, their age, and the jobs that keep them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.api.background.gauges import GaugeUpdater
from services.api.background.upload_sweep import UploadQuotaError, UploadSweep
from services.api.database import overview, uploads
from shared.clock import SystemClock
from shared.contract.events import VideoStitched
from shared.contract.params import Scene, VideoRef
from shared.storage.keys import upload_key
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, limits
from tests.support.film_clips import film_clips
from tests.support.servers import Database

pytestmark = pytest.mark.integration
DAY_S = 86_400
OCTETS = {"Content-Type": "application/octet-stream"}
SIZE = 100_000
A, B, C, D, E = (upload_key(letter * 64) for letter in "abcde")


@pytest.fixture
def clock() -> FakeClock:
    """Return the api's clock."""
    return FakeClock()


@pytest.fixture
async def api(
    postgres: Database, store_folder: Path, clock: FakeClock
) -> AsyncIterator[ApiFixture]:
    """Yield the api with a quota of three files."""
    small = limits(upload_quota_bytes=3 * SIZE)
    async with api_fixture(await postgres(), store_folder, clock=clock, limits=small) as api:
        yield api


async def upload(api: ApiFixture, key: str) -> None:
    """Store a file as an upload does."""
    await api.context.upload_sweep.reserve(key, SIZE)
    await api.context.store.put(key, b"x" * SIZE)


async def stored(api: ApiFixture) -> set[str]:
    """Return the uploads in the store."""
    return {stat.key async for stat in api.context.store.list_objects("uploads/")}


async def test_the_oldest_unreferenced_uploads_make_room_within_the_quota(
    api: ApiFixture, clock: FakeClock
) -> None:
    """From an hour on; a younger one stays, because its request may be on the way."""
    await upload(api, A)
    clock.jump(600)
    await upload(api, B)
    await upload(api, C)
    with pytest.raises(UploadQuotaError, match="occupy 300000 bytes, at most 300000"):
        await upload(api, D)
    full = await stored(api)
    clock.jump(3600 - 599)
    await upload(api, D)
    with pytest.raises(UploadQuotaError):
        await upload(api, E)

    assert full == {A, B, C}
    assert await stored(api) == {B, C, D}


async def test_an_upload_over_the_quota_is_rejected_over_http(
    postgres: Database, store_folder: Path
) -> None:
    """507 names the setting and deletes nothing; the same file again needs no more room."""
    film = film_clips().bikes.read_bytes()
    small = limits(upload_quota_bytes=len(film) + 3000)
    async with api_fixture(await postgres(), store_folder, limits=small) as api:
        first = await api.client.post("/api/v3/videos", content=film, headers=OCTETS)
        again = await api.client.post("/api/v3/videos", content=film, headers=OCTETS)
        longer = film + b"\0\0\x07\xd8free" + b"\0" * 2000
        refused = await api.client.post("/api/v3/videos", content=longer, headers=OCTETS)
        job = await api.post(job_id="j", scenes=TWO_SCENES, video=first.json()["video"])
        accepted = await api.client.post("/api/v3/videos", content=longer, headers=OCTETS)

    assert [first.status_code, again.status_code, refused.status_code] == [201, 201, 507]
    assert "SEGUE_UPLOAD_QUOTA_BYTES" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert job.status_code == 202
    assert accepted.status_code == 201, "the job uses the first film"


async def test_old_unreferenced_uploads_are_deleted_and_referenced_ones_are_not(
    api: ApiFixture, clock: FakeClock
) -> None:
    """By a video, by a style sample, by upstream; gauges and `watch` show the others."""
    for key in (A, B):
        await upload(api, key)
    style = {"style_audio": {"object": B}}
    first = await api.post(job_id="1", scenes=TWO_SCENES, video={"object": A}, audio_params=style)
    for key in (C, D, E):
        await upload(api, key)
    scenes = (Scene(description="a lake", duration_s=2.0),)
    await api.apply(VideoStitched(job_id="2", video=VideoRef(object=C), scenes=scenes))
    async with api.context.database.connection() as connection:
        counts = await overview.current_counts(connection)
    await GaugeUpdater(database=api.context.database, clock=clock).update()
    clock.jump(DAY_S - 10)
    early = await api.context.upload_sweep.sweep()
    clock.jump(20)
    late = await api.context.upload_sweep.sweep()

    assert first.status_code == 202
    assert (early, late) == (0, 2)
    assert await stored(api) == {A, B, C}
    assert (counts.uploads, counts.upload_bytes) == (2, 2 * SIZE)
    assert REGISTRY.get_sample_value("segue_api_uploads_unreferenced_bytes") == 2 * SIZE
    assert {row["key"] for row in await api.rows("SELECT key FROM uploads")} == {A, B, C}


async def test_files_of_an_older_version_are_found_by_the_first_sweep(
    api: ApiFixture, clock: FakeClock
) -> None:
    """They are not in the table; those that a job references stay."""
    for key in (A, B):
        await api.context.store.put(key, b"x")
    answer = await api.post(job_id="1", scenes=TWO_SCENES, video={"object": A})
    await api.rows("DELETE FROM uploads")
    clock.jump((SystemClock().now() - clock.now()).total_seconds() + DAY_S + 60)

    assert answer.status_code == 202
    assert await api.context.upload_sweep.sweep() == 1
    assert await stored(api) == {A}


async def test_a_request_in_progress_keeps_its_upload(api: ApiFixture, clock: FakeClock) -> None:
    """Whichever comes first: the file stays, or the request is rejected."""
    await upload(api, A)
    await upload(api, B)
    clock.jump(2 * DAY_S)
    sweep = api.context.upload_sweep
    async with api.context.database.transaction() as connection:
        await uploads.reference(connection, [A])  # a request has not committed yet
        assert await sweep.sweep() == 1
    lost = await api.post(job_id="k", scenes=TWO_SCENES, video={"object": B})

    assert await stored(api) == {A}
    assert lost.status_code == 422
    assert lost.json()["errors"][0]["field"] == "video.object"


async def test_an_upload_that_is_deleted_during_a_request_rejects_it(
    api: ApiFixture, clock: FakeClock
) -> None:
    """The request found the file, then the sweep deleted it: no job is created."""
    await upload(api, A)
    clock.jump(2 * DAY_S)
    async with api.context.database.transaction() as connection:
        assert await uploads.lock_unreferenced(connection, A)
        request = asyncio.create_task(api.post(job_id="j", scenes=TWO_SCENES, video={"object": A}))
        async with asyncio.timeout(5):
            waiting = "SELECT count(*) AS n FROM pg_locks WHERE NOT granted"
            while (await api.rows(waiting))[0]["n"] == 0:  # noqa: ASYNC110 - another session
                await asyncio.sleep(0.01)
        await api.context.store.delete(A)
        await uploads.forget(connection, A)
    answer = await request

    assert answer.status_code == 422
    assert "was deleted: upload the file again" in answer.json()["errors"][0]["message"]
    assert await api.rows("SELECT job_id FROM jobs") == []


async def test_one_replica_sweeps_at_a_time(api: ApiFixture, clock: FakeClock) -> None:
    """The other one skips; nothing is deleted twice."""
    for key in (A, B):
        await upload(api, key)
    clock.jump(2 * DAY_S)
    context = api.context
    other = UploadSweep(
        database=context.database,
        store=context.store,
        quota_bytes=SIZE,
        retention_s=DAY_S,
        clock=clock,
        log=context.log,
    )
    async with context.database.transaction() as connection:
        assert await uploads.lock_sweep(connection, wait=False)
        assert await other.sweep() == 0
    both = await asyncio.gather(other.sweep(), context.upload_sweep.sweep())

    assert sum(both) == 2
    assert await stored(api) == set()
