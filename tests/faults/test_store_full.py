"""A full object store: writes fail completely; after space is freed, jobs continue."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from shared.errors import StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import ObjectStore
from shared.storage.filesystem import FolderStore
from shared.storage.keys import track_key
from shared.storage.s3.store import S3Store
from tests.faults.harness.killable_servers import KillableS3
from tests.faults.harness.small_disk import SmallDisk, a_small_disk
from tests.support.api_fixture import TWO_SCENES
from tests.support.pipeline_fixture import BASE, running_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
DISK_MIB = 24
S3_DISK_MIB = 400  # MinIO rejects writes to the last tenth of a disk and has its own files
LARGE_BYTES = 4 * 1024 * 1024
OpenStore = Callable[[SmallDisk], AbstractAsyncContextManager[ObjectStore]]


@asynccontextmanager
async def _folder(disk: SmallDisk) -> AsyncIterator[ObjectStore]:
    yield FolderStore(disk.folder / "store")


@asynccontextmanager
async def _bucket(disk: SmallDisk) -> AsyncIterator[ObjectStore]:
    server = await asyncio.to_thread(KillableS3, disk.folder)
    store = S3Store(server.settings)
    try:
        await store.prepare()
        yield store
    finally:
        await store.close()
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(
    ("open_store", "mib"), [(_folder, DISK_MIB), (_bucket, S3_DISK_MIB)], ids=["folder", "s3"]
)
async def test_a_full_store_rejects_writes_and_keeps_its_objects(
    open_store: OpenStore, mib: int, minio: StoreSettings, tmp_path: Path
) -> None:
    """Every kind of write; rejected ones leave nothing, and all work after space is freed."""
    assert minio.folder is None, "the server is real"
    large = tmp_path / "large"
    large.write_bytes(bytes(LARGE_BYTES))
    with a_small_disk(mib) as disk:
        async with open_store(disk) as store:
            await store.put("a/kept", b"k" * 1000)
            disk.fill()
            ends = await asyncio.gather(
                store.put("a/new", bytes(LARGE_BYTES)),
                store.put("a/kept", bytes(LARGE_BYTES)),
                store.put_file("a/file", large),
                store.put_if_absent("a/claim", bytes(100_000)),
                return_exceptions=True,
            )
            keys = [stat.key async for stat in store.list_objects("a/")]
            kept = await store.get("a/kept")
            disk.free_space()

            async def writable() -> bool | None:
                try:
                    await store.check()
                except StoreUnavailableError:
                    return None  # it checks its disk periodically
                return True

            await eventually(writable, within_s=60, what="the store takes writes again")
            await store.put("a/new", b"n")
            claimed = await store.put_if_absent("a/claim", b"mine")
            left = list(disk.folder.glob("store/.tmp/*"))

    assert [type(end) for end in ends] == [StoreUnavailableError] * 4, ends
    assert keys == ["a/kept"]
    assert kept == b"k" * 1000
    assert claimed
    assert left == []


async def test_a_pipeline_with_a_full_store_waits_until_space_is_freed(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> None:
    """Jobs are accepted or rejected with 503 while it is full; the accepted ones complete."""
    with a_small_disk(DISK_MIB) as disk:
        folder = disk.folder / "store"
        async with running_pipeline(
            kafka, postgres, topic_prefix, tmp_path, SEGUE_STORE_DIR=str(folder)
        ) as pipeline:
            assert (await pipeline.generate(job_id="before", scenes=TWO_SCENES)).status_code == 202
            before = await pipeline.ended("before")
            disk.fill()
            answers = [
                (await pipeline.generate(job_id=f"full-{n}", scenes=TWO_SCENES)).status_code
                for n in range(3)
            ]

            async def reported() -> bool | None:
                disk.fill()  # a temporary file may have been removed
                return (await pipeline.client.get("/readyz")).status_code == 503 or None

            await eventually(reported, within_s=30, what="readyz reports the full store")
            old = await pipeline.client.get(before["links"]["download"])
            await asyncio.sleep(3)  # accepted jobs hit the full disk
            disk.free_space()
            names = [f"full-{n}" for n, code in enumerate(answers) if code == 202]
            after = {name: await pipeline.ended(name, within_s=180) for name in names}
            tracks = {}
            for name, status in after.items():

                async def track(path: str = status["links"]["download"]) -> bytes | None:
                    try:
                        answer = await pipeline.client.get(path)
                    except httpx.TransportError:
                        return None
                    return answer.content if answer.status_code == 200 else None

                tracks[name] = await eventually(track, within_s=60, what=f"the track of {name}")
            store = FolderStore(folder)
            stored = {name: await store.get(track_key(name, 1)) for name in names}
    states = {name: status["audio_status"]["status"] for name, status in after.items()}
    sys.stdout.write(f"store full: answers {answers} ({BASE}), afterwards {states}\n")

    assert set(answers) <= {202, 503}
    assert old.status_code == 200
    assert states == dict.fromkeys(names, "completed")
    assert tracks == stored
