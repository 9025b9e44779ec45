"""Behaviour that every object store must have."""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from minio import Minio

from shared.errors import NotFoundError, StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import CHUNK_BYTES, ObjectStore, StandInWarning
from shared.storage.filesystem import FolderStore
from shared.storage.instrumented import InstrumentedStore
from shared.storage.s3.store import S3Store
from shared.telemetry.log import logger_of
from tests.fakes.memory_store import MemoryStore
from tests.support.processes import eventually
from tests.support.servers import s3_names

CREATORS = 50
LARGE_BYTES = 20 * 1024 * 1024  # more than two parts of a multipart upload


@pytest.fixture(
    params=[
        "memory",
        "instrumented",
        "folder",
        *(pytest.param(name, marks=pytest.mark.integration) for name in s3_names()),
    ]
)
async def store(request: pytest.FixtureRequest, store_folder: Path) -> AsyncIterator[ObjectStore]:
    """Yield each adapter in turn."""
    opened: ObjectStore
    if request.param in {"memory", "instrumented"}:
        with pytest.warns(StandInWarning, match="loses everything"):
            opened = MemoryStore()
        if request.param == "instrumented":
            opened = InstrumentedStore(opened, log=logger_of("test"))
    elif request.param == "folder":
        opened = FolderStore(store_folder)
    else:
        opened = S3Store(s3_settings(request))
        await opened.prepare()
    yield opened
    await opened.close()


def s3_settings(request: pytest.FixtureRequest) -> StoreSettings:
    """Return the settings of the server that the test's store is on."""
    settings: StoreSettings = request.getfixturevalue("s3_server")(
        request.node.callspec.params["store"]
    )
    return settings


@pytest.fixture
def prefix() -> str:
    """Return a key prefix for the test: tests share a bucket."""
    return f"test/{secrets.token_hex(6)}"


async def keys_below(store: ObjectStore, prefix: str) -> list[str]:
    """Return the keys of a listing, in its order."""
    return [stat.key async for stat in store.list_objects(prefix)]


def names_in(folder: Path) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in folder.iterdir()}


async def read(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    """Return the bytes of a stream."""
    return b"".join([chunk async for chunk in store.stream(key, start=start, end=end)])


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"music" * 100_000])
async def test_get_returns_what_was_put(store: ObjectStore, prefix: str, data: bytes) -> None:
    """Byte for byte, also an empty object."""
    await store.put(f"{prefix}/a.mp3", data, content_type="audio/mpeg")

    assert await store.get(f"{prefix}/a.mp3") == data
    assert await read(store, f"{prefix}/a.mp3") == data


async def test_second_put_replaces_the_first(store: ObjectStore, prefix: str) -> None:
    """Shorter data leaves no rest of the longer."""
    await store.put(f"{prefix}/a", b"the first, longer one")
    await store.put(f"{prefix}/a", b"the second")

    assert await store.get(f"{prefix}/a") == b"the second"


async def test_stat_returns_key_size_type_and_time(store: ObjectStore, prefix: str) -> None:
    """The time has a time zone."""
    await store.put(f"{prefix}/a.mp3", b"12345", content_type="audio/mpeg")

    stat = await store.stat(f"{prefix}/a.mp3")

    assert stat is not None
    assert (stat.key, stat.size_bytes) == (f"{prefix}/a.mp3", 5)
    assert stat.content_type == "audio/mpeg"
    assert stat.modified_at.tzinfo is not None


async def test_etag_changes_only_with_the_bytes(store: ObjectStore, prefix: str) -> None:
    """Of the same length, so that only the bytes differ."""
    await store.put(f"{prefix}/a", b"one")
    first, again = await store.stat(f"{prefix}/a"), await store.stat(f"{prefix}/a")
    await store.put(f"{prefix}/a", b"two")
    second = await store.stat(f"{prefix}/a")
    assert first and again and second  # noqa: PT018 - there is one of each
    assert first.etag == again.etag != second.etag


async def test_missing_object_is_not_found(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    """Every read names the key; stat and delete are not errors; no file is left."""
    key = f"{prefix}/nothing"

    with pytest.raises(NotFoundError, match=key):
        await store.get(key)
    with pytest.raises(NotFoundError, match=key):
        await store.get_file(key, tmp_path / "file")
    with pytest.raises(NotFoundError, match=key):
        await read(store, key)
    with pytest.raises(NotFoundError, match=key):
        await read(store, key, 3, 3)
    assert await store.stat(key) is None
    await store.delete(key)
    assert names_in(tmp_path) <= {"store"}


async def test_prefix_of_a_key_is_not_an_object(store: ObjectStore, prefix: str) -> None:
    """There are no folders: `a/b` does not create an `a`, and deleting `a` keeps `a/b`."""
    await store.put(f"{prefix}/a/b", b"x")

    assert await store.stat(f"{prefix}/a") is None
    with pytest.raises(NotFoundError):
        await store.get(f"{prefix}/a")
    assert await store.stat(f"{prefix}/a/b/c") is None
    await store.delete(f"{prefix}/a")
    assert await store.get(f"{prefix}/a/b") == b"x"


async def test_deleted_object_can_be_created_again(store: ObjectStore, prefix: str) -> None:
    """Deleting twice is not an error."""
    await store.put(f"{prefix}/a", b"x")
    await store.delete(f"{prefix}/a")
    await store.delete(f"{prefix}/a")

    assert await store.stat(f"{prefix}/a") is None
    assert await store.put_if_absent(f"{prefix}/a", b"y")


async def test_exactly_one_of_many_creators_succeeds(store: ObjectStore, prefix: str) -> None:
    """The object has the bytes of the one that got True."""
    claims = [f"claim {number}".encode() for number in range(CREATORS)]

    results = await asyncio.gather(
        *(store.put_if_absent(f"{prefix}/claim", claim) for claim in claims)
    )

    assert results.count(True) == 1
    assert await store.get(f"{prefix}/claim") == claims[results.index(True)]


async def test_creator_that_lost_the_response_gets_true_again(
    store: ObjectStore, prefix: str
) -> None:
    """The bytes contain a nonce, so the same bytes are the same creator."""
    mine, theirs = b"nonce 1", b"nonce 2"

    assert await store.put_if_absent(f"{prefix}/claim", mine)
    assert await store.put_if_absent(f"{prefix}/claim", mine)
    assert not await store.put_if_absent(f"{prefix}/claim", theirs)
    assert await store.get(f"{prefix}/claim") == mine


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (3, 7), (9, 10), (5, None), (5, 5), (8, 99), (10, None), (50, 60)],
)
async def test_range_equals_a_slice(
    store: ObjectStore, prefix: str, start: int, end: int | None
) -> None:
    """A range past the end is empty, not an error."""
    await store.put(f"{prefix}/digits", b"0123456789")

    assert await read(store, f"{prefix}/digits", start, end) == b"0123456789"[start:end]


async def test_large_file_is_stored_and_read_in_parts(
    store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    """20 MiB: uploaded in parts, downloaded to a file, and streamed in small chunks."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(secrets.token_bytes(1024) * (LARGE_BYTES // 1024) + b"end")
    await store.put_file(f"{prefix}/large.mp4", source, content_type="video/mp4")
    await store.get_file(f"{prefix}/large.mp4", target)
    sizes, digest = [], hashlib.sha256()
    async for chunk in store.stream(f"{prefix}/large.mp4"):
        sizes.append(len(chunk))
        digest.update(chunk)

    expected = hashlib.sha256(source.read_bytes()).digest()
    assert hashlib.sha256(target.read_bytes()).digest() == expected
    assert digest.digest() == expected
    assert max(sizes) <= CHUNK_BYTES
    stat = await store.stat(f"{prefix}/large.mp4")
    assert stat is not None
    assert (stat.size_bytes, stat.content_type) == (LARGE_BYTES + 3, "video/mp4")


async def test_missing_local_file_is_an_error_of_the_caller(
    store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    """It is not retryable."""
    with pytest.raises(FileNotFoundError):
        await store.put_file(f"{prefix}/a", tmp_path / "nothing")

    assert await store.stat(f"{prefix}/a") is None


async def test_listing_has_the_prefix_in_key_order(store: ObjectStore, prefix: str) -> None:
    """A prefix is a text, not a folder name."""
    names = ["b", "a/2", "a/10", "a-b", "a.mp3", "ab/c", "B"]
    for name in names:
        await store.put(f"{prefix}/{name}", name.encode())

    assert await keys_below(store, f"{prefix}/") == sorted(f"{prefix}/{n}" for n in names)
    assert await keys_below(store, f"{prefix}/a") == [
        f"{prefix}/{n}" for n in ("a-b", "a.mp3", "a/10", "a/2", "ab/c")
    ]
    assert await keys_below(store, f"{prefix}/a/") == [f"{prefix}/a/10", f"{prefix}/a/2"]
    assert await keys_below(store, f"{prefix}/nothing/") == []


async def test_listing_has_sizes_and_etags(store: ObjectStore, prefix: str) -> None:
    """The same as `stat`."""
    await store.put(f"{prefix}/a.mp3", b"12345", content_type="audio/mpeg")

    (listed,) = [stat async for stat in store.list_objects(f"{prefix}/")]
    stat = await store.stat(f"{prefix}/a.mp3")

    assert stat is not None
    assert (listed.size_bytes, listed.etag) == (5, stat.etag)
    assert listed.content_type == stat.content_type


@pytest.mark.parametrize(
    "key",
    [
        *("", "/etc/passwd", "../out", "a/../../out", "a//b", "a/", "./a", "a b", "ä"),
        *("a" * 256, "a/" * 300 + "a"),
    ],
)
async def test_key_that_could_leave_the_store_is_rejected(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    """By every method, before anything is read or written."""
    for call in (
        store.put(key, b"x"),
        store.put_file(key, tmp_path),
        store.put_if_absent(key, b"x"),
        store.get(key),
        store.get_file(key, tmp_path / "file"),
        read(store, key),
        store.stat(key),
        store.delete(key),
    ):
        with pytest.raises(ValueError, match="not an object key"):
            await call


async def test_prefix_that_could_leave_the_store_is_rejected(store: ObjectStore) -> None:
    """A prefix is checked like a key."""
    with pytest.raises(ValueError, match="not an object key"):
        await keys_below(store, "a/../../")


async def test_longest_file_name_is_a_valid_key(store: ObjectStore, prefix: str) -> None:
    """255 characters between two slashes."""
    await store.put(f"{prefix}/{'a' * 255}", b"x")

    assert await store.get(f"{prefix}/{'a' * 255}") == b"x"


async def test_link_reads_one_object_without_an_account(store: ObjectStore, prefix: str) -> None:
    """Until it expires; a store without a server returns None."""
    await store.put(f"{prefix}/a.mp3", b"0123456789", content_type="audio/mpeg")
    url = store.presigned_url(f"{prefix}/a.mp3", ttl_s=60)
    missing_url = store.presigned_url(f"{prefix}/nothing", ttl_s=60)
    short = store.presigned_url(f"{prefix}/a.mp3", ttl_s=1)
    for wrong in (0, 8 * 86_400):
        with pytest.raises(ValueError, match="valid for 1 to"):
            store.presigned_url(f"{prefix}/a.mp3", ttl_s=wrong)
    if not isinstance(store, S3Store):
        assert (url, missing_url, short) == (None, None, None)
        return

    assert url and missing_url and short  # noqa: PT018 - there is one of each
    async with httpx.AsyncClient(trust_env=False) as client:
        whole = await client.get(url)
        part = await client.get(url, headers={"Range": "bytes=3-6"})
        other = await client.get(url.replace("a.mp3", "b.mp3"))
        missing = await client.get(missing_url)
        written = await client.put(url, content=b"x")

        async def refused() -> bool | None:
            return (await client.get(short)).status_code == 403 or None

        await eventually(refused, within_s=30, what="the link has expired")

    assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "audio/mpeg")
    assert (part.status_code, part.content) == (206, b"3456")
    assert (other.status_code, missing.status_code, written.status_code) == (403, 404, 403)
    assert await store.get(f"{prefix}/a.mp3") == b"0123456789"


@pytest.mark.parametrize("created", [False, True], ids=["put", "created"])
async def test_corrupt_object_is_never_returned(
    store: ObjectStore,
    prefix: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    created: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Not as a whole, not as a file, and a stream ends before its last chunk."""
    key, data = f"{prefix}/a", secrets.token_bytes(CHUNK_BYTES * 2 + 10)
    if created:
        await store.put_if_absent(key, data)
    else:
        await store.put(key, data)
    if isinstance(store, FolderStore):
        if not hasattr(os, "getxattr") or "user.segue.sha256" not in os.listxattr(store.root / key):
            pytest.skip("this file system has no extended attributes")
        with (store.root / key).open("r+b") as file:
            file.write(b"\x00\x00\x00\x00")
    elif isinstance(store, S3Store):
        _corrupt(s3_settings(request), key, data)
    else:
        return  # no other writer has access to this memory

    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get(key)
    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get_file(key, tmp_path / "file")
    chunks: list[bytes] = []
    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await gather_chunks(store, key, chunks)
    assert names_in(tmp_path) <= {"store"}
    assert sum(map(len, chunks)) < len(data)


async def gather_chunks(store: ObjectStore, key: str, chunks: list[bytes]) -> None:
    """Append to `chunks` what a stream yields until it ends or fails."""
    async for chunk in store.stream(key):
        chunks.append(chunk)  # noqa: PERF401 - chunks before an error count


def _corrupt(settings: StoreSettings, key: str, data: bytes) -> None:
    """Replace the bytes of an object, but keep its digest."""
    client = Minio(
        settings.endpoint.removeprefix("http://"),
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
    )
    metadata = client.stat_object(settings.bucket, key).metadata
    assert metadata is not None
    digest = metadata["x-amz-meta-sha256"]
    assert digest == hashlib.sha256(data).hexdigest()
    corrupt = b"\x00" * 4 + data[4:]
    client.put_object(
        settings.bucket, key, BytesIO(corrupt), len(corrupt), metadata={"sha256": digest}
    )


async def test_reader_gets_the_old_or_the_new_object_never_a_mixture(
    store: ObjectStore, prefix: str
) -> None:
    """While a writer replaces the object again and again."""
    versions = [bytes([number]) * 300_000 for number in range(8)]
    key = f"{prefix}/a"
    await store.put(key, versions[0])

    async def write() -> None:
        for version in versions:
            await store.put(key, version)

    writer = asyncio.ensure_future(write())
    versions_read = [await store.get(key)]
    while not writer.done():
        versions_read.append(await store.get(key))
    await writer

    assert set(versions_read) <= set(versions)
    assert await store.get(key) == versions[-1]


async def test_concurrent_calls_are_independent(store: ObjectStore, prefix: str) -> None:
    """More calls than threads."""
    keys = [f"{prefix}/{number:03}" for number in range(60)]
    await asyncio.gather(*(store.put(key, key.encode()) for key in keys))

    assert await asyncio.gather(*(store.get(key) for key in keys)) == [k.encode() for k in keys]
    assert await keys_below(store, prefix) == keys


async def test_writable_store_passes_its_check(store: ObjectStore) -> None:
    """Failures are covered by the adapters' own tests."""
    await store.check()


async def test_temporary_files_of_killed_writers_are_deleted_after_a_day(
    store_folder: Path,
) -> None:
    """At the next start; younger ones may still be in use."""
    FolderStore(store_folder)
    old, young = store_folder / ".tmp" / "old", store_folder / ".tmp" / "young"
    for left in (old, young):
        left.write_bytes(b"half")
    then = time.time() - 90_000  # noqa: TID251 - compared with file times
    os.utime(old, (then, then))

    await FolderStore(store_folder).prepare()

    assert names_in(store_folder / ".tmp") == {"young"}
