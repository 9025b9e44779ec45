"""The object store: what every adapter promises."""

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

CREATORS = 50
LARGE_BYTES = 20 * 1024 * 1024  # more than two parts of a multipart upload


# A parameter is named after the fixture of the server it needs.
@pytest.fixture(
    params=[
        "memory",
        "told",
        "folder",
        pytest.param("minio", id="s3", marks=pytest.mark.integration),
    ]
)
async def store(request: pytest.FixtureRequest, store_folder: Path) -> AsyncIterator[ObjectStore]:
    """One adapter after the other."""
    opened: ObjectStore
    if request.param in {"memory", "told"}:
        with pytest.warns(StandInWarning, match="forgets everything"):
            opened = MemoryStore()
        if request.param == "told":
            opened = InstrumentedStore(opened, log=logger_of("test"))
    elif request.param == "folder":
        opened = FolderStore(store_folder)
    else:
        settings: StoreSettings = request.getfixturevalue("minio")
        opened = S3Store(settings)
        await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture
def place() -> str:
    """The beginning of a test's keys: tests share a bucket."""
    return f"test/{secrets.token_hex(6)}"


async def keys_below(store: ObjectStore, prefix: str) -> list[str]:
    """The keys that a listing gives, in its order."""
    return [found.key async for found in store.list_objects(prefix)]


def names_in(folder: Path) -> set[str]:
    """The names in a folder."""
    return {path.name for path in folder.iterdir()}


async def read(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    """What a stream gives, put together."""
    return b"".join([chunk async for chunk in store.stream(key, start=start, end=end)])


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"music" * 100_000])
async def test_what_was_put_comes_back(store: ObjectStore, place: str, data: bytes) -> None:
    """Byte for byte, the empty object too."""
    await store.put(f"{place}/a.mp3", data, content_type="audio/mpeg")

    assert await store.get(f"{place}/a.mp3") == data
    assert await read(store, f"{place}/a.mp3") == data


async def test_a_second_put_replaces_the_first(store: ObjectStore, place: str) -> None:
    """Shorter data leaves nothing of the longer behind."""
    await store.put(f"{place}/a", b"the first, longer one")
    await store.put(f"{place}/a", b"the second")

    assert await store.get(f"{place}/a") == b"the second"


async def test_what_is_known_of_an_object_is_right(store: ObjectStore, place: str) -> None:
    """Key, size, type and a time with a zone."""
    await store.put(f"{place}/a.mp3", b"12345", content_type="audio/mpeg")

    stat = await store.stat(f"{place}/a.mp3")

    assert stat is not None
    assert (stat.key, stat.size_bytes) == (f"{place}/a.mp3", 5)
    assert stat.content_type == "audio/mpeg"
    assert stat.modified_at.tzinfo is not None


async def test_the_etag_changes_with_the_bytes_and_not_without(
    store: ObjectStore, place: str
) -> None:
    """Of the same length, so that only the bytes differ."""
    await store.put(f"{place}/a", b"one")
    first, again = await store.stat(f"{place}/a"), await store.stat(f"{place}/a")
    await store.put(f"{place}/a", b"two")
    second = await store.stat(f"{place}/a")
    assert first and again and second  # noqa: PT018 - there is one of each
    assert first.etag == again.etag != second.etag


async def test_what_is_not_there_is_said_to_be_missing(
    store: ObjectStore, place: str, tmp_path: Path
) -> None:
    """Every way of reading names the key; asking and deleting are no errors; no file is left."""
    key = f"{place}/nothing"

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


async def test_the_beginning_of_keys_is_not_an_object(store: ObjectStore, place: str) -> None:
    """Objects have no folders: `a/b` does not make an `a`, and deleting `a` leaves `a/b`."""
    await store.put(f"{place}/a/b", b"x")

    assert await store.stat(f"{place}/a") is None
    with pytest.raises(NotFoundError):
        await store.get(f"{place}/a")
    assert await store.stat(f"{place}/a/b/c") is None
    await store.delete(f"{place}/a")
    assert await store.get(f"{place}/a/b") == b"x"


async def test_a_deleted_object_is_gone_and_may_come_again(store: ObjectStore, place: str) -> None:
    """Deleting twice is deleting once."""
    await store.put(f"{place}/a", b"x")
    await store.delete(f"{place}/a")
    await store.delete(f"{place}/a")

    assert await store.stat(f"{place}/a") is None
    assert await store.put_if_absent(f"{place}/a", b"y")


async def test_of_many_creators_exactly_one_is_first(store: ObjectStore, place: str) -> None:
    """Whoever is told True finds its own bytes there, and nobody else does."""
    claims = [f"claim {number}".encode() for number in range(CREATORS)]

    told = await asyncio.gather(*(store.put_if_absent(f"{place}/claim", one) for one in claims))

    assert told.count(True) == 1
    assert await store.get(f"{place}/claim") == claims[told.index(True)]


async def test_a_creator_whose_answer_was_lost_is_told_again_that_it_was_first(
    store: ObjectStore, place: str
) -> None:
    """The bytes hold a nonce, so the same bytes are the same creator."""
    mine, theirs = b"nonce 1", b"nonce 2"

    assert await store.put_if_absent(f"{place}/claim", mine)
    assert await store.put_if_absent(f"{place}/claim", mine)
    assert not await store.put_if_absent(f"{place}/claim", theirs)
    assert await store.get(f"{place}/claim") == mine


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (3, 7), (9, 10), (5, None), (5, 5), (8, 99), (10, None), (50, 60)],
)
async def test_a_range_is_what_a_slice_would_be(
    store: ObjectStore, place: str, start: int, end: int | None
) -> None:
    """Past the end there is nothing, which is no error."""
    await store.put(f"{place}/digits", b"0123456789")

    assert await read(store, f"{place}/digits", start, end) == b"0123456789"[start:end]


async def test_a_large_file_goes_in_and_out_in_pieces(
    store: ObjectStore, place: str, tmp_path: Path
) -> None:
    """20 MiB: up in parts, down to a file, and as a stream whose chunks stay small."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(secrets.token_bytes(1024) * (LARGE_BYTES // 1024) + b"end")
    await store.put_file(f"{place}/large.mp4", source, content_type="video/mp4")
    await store.get_file(f"{place}/large.mp4", target)
    sizes, digest = [], hashlib.sha256()
    async for chunk in store.stream(f"{place}/large.mp4"):
        sizes.append(len(chunk))
        digest.update(chunk)

    expected = hashlib.sha256(source.read_bytes()).digest()
    assert hashlib.sha256(target.read_bytes()).digest() == expected
    assert digest.digest() == expected
    assert max(sizes) <= CHUNK_BYTES
    stat = await store.stat(f"{place}/large.mp4")
    assert stat is not None
    assert (stat.size_bytes, stat.content_type) == (LARGE_BYTES + 3, "video/mp4")


async def test_a_file_that_is_not_there_cannot_be_put(
    store: ObjectStore, place: str, tmp_path: Path
) -> None:
    """That is the caller's fault, and not one of the store, which would be tried again."""
    with pytest.raises(FileNotFoundError):
        await store.put_file(f"{place}/a", tmp_path / "nothing")

    assert await store.stat(f"{place}/a") is None


async def test_a_listing_is_in_key_order_and_holds_the_prefix_alone(
    store: ObjectStore, place: str
) -> None:
    """The prefix is the beginning of a text, not the name of a folder."""
    names = ["b", "a/2", "a/10", "a-b", "a.mp3", "ab/c", "B"]
    for name in names:
        await store.put(f"{place}/{name}", name.encode())

    assert await keys_below(store, f"{place}/") == sorted(f"{place}/{n}" for n in names)
    assert await keys_below(store, f"{place}/a") == [
        f"{place}/{n}" for n in ("a-b", "a.mp3", "a/10", "a/2", "ab/c")
    ]
    assert await keys_below(store, f"{place}/a/") == [f"{place}/a/10", f"{place}/a/2"]
    assert await keys_below(store, f"{place}/nothing/") == []


async def test_a_listing_knows_sizes_and_etags(store: ObjectStore, place: str) -> None:
    """The same as asking for each."""
    await store.put(f"{place}/a.mp3", b"12345", content_type="audio/mpeg")

    (listed,) = [found async for found in store.list_objects(f"{place}/")]
    asked = await store.stat(f"{place}/a.mp3")

    assert asked is not None
    assert (listed.size_bytes, listed.etag) == (5, asked.etag)
    assert listed.content_type == asked.content_type


@pytest.mark.parametrize(
    "key",
    [
        *("", "/etc/passwd", "../out", "a/../../out", "a//b", "a/", "./a", "a b", "ä"),
        *("a" * 256, "a/" * 300 + "a"),
    ],
)
async def test_a_key_that_could_leave_its_place_is_refused(
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


async def test_a_listing_cannot_leave_the_store_either(store: ObjectStore) -> None:
    """A prefix is checked as a key is."""
    with pytest.raises(ValueError, match="not an object key"):
        await keys_below(store, "a/../../")


async def test_a_name_as_long_as_a_file_system_takes_is_a_key(
    store: ObjectStore, place: str
) -> None:
    """255 characters between two slashes."""
    await store.put(f"{place}/{'a' * 255}", b"x")

    assert await store.get(f"{place}/{'a' * 255}") == b"x"


async def test_a_link_reads_one_object_without_an_account(store: ObjectStore, place: str) -> None:
    """For as long as it lives; a store without a server gives none."""
    await store.put(f"{place}/a.mp3", b"0123456789", content_type="audio/mpeg")
    url = store.presigned_url(f"{place}/a.mp3", ttl_s=60)
    nothing = store.presigned_url(f"{place}/nothing", ttl_s=60)
    short = store.presigned_url(f"{place}/a.mp3", ttl_s=1)
    for wrong in (0, 8 * 86_400):
        with pytest.raises(ValueError, match="valid for 1 to"):
            store.presigned_url(f"{place}/a.mp3", ttl_s=wrong)
    if not isinstance(store, S3Store):
        assert (url, nothing, short) == (None, None, None)
        return

    assert url and nothing and short  # noqa: PT018 - there is one of each
    async with httpx.AsyncClient(trust_env=False) as client:
        whole = await client.get(url)
        part = await client.get(url, headers={"Range": "bytes=3-6"})
        other = await client.get(url.replace("a.mp3", "b.mp3"))
        missing = await client.get(nothing)
        written = await client.put(url, content=b"x")

        async def refused() -> bool | None:
            return (await client.get(short)).status_code == 403 or None

        await eventually(refused, within_s=30, what="the link has expired")

    assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "audio/mpeg")
    assert (part.status_code, part.content) == (206, b"3456")
    assert (other.status_code, missing.status_code, written.status_code) == (403, 404, 403)
    assert await store.get(f"{place}/a.mp3") == b"0123456789"


@pytest.mark.parametrize("created", [False, True], ids=["put", "created"])
async def test_bytes_that_changed_where_they_lie_are_never_handed_on(
    store: ObjectStore,
    place: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    created: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Not as a whole, not as a file, and a stream ends before its last chunk."""
    key, data = f"{place}/a", secrets.token_bytes(CHUNK_BYTES * 2 + 10)
    if created:
        await store.put_if_absent(key, data)
    else:
        await store.put(key, data)
    if isinstance(store, FolderStore):
        if not hasattr(os, "getxattr") or "user.segue.sha256" not in os.listxattr(store.root / key):
            pytest.skip("this file system keeps no attributes")
        with (store.root / key).open("r+b") as file:
            file.write(b"\x00\x00\x00\x00")
    elif isinstance(store, S3Store):
        _spoil(request.getfixturevalue("minio"), key, data)
    else:
        return  # nobody else can reach into this memory

    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get(key)
    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get_file(key, tmp_path / "file")
    came: list[bytes] = []
    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await gather_chunks(store, key, came)
    assert names_in(tmp_path) <= {"store"}
    assert sum(map(len, came)) < len(data)


async def gather_chunks(store: ObjectStore, key: str, came: list[bytes]) -> None:
    """Put into `came` what a stream gives before it ends, however it ends."""
    async for chunk in store.stream(key):
        came.append(chunk)  # noqa: PERF401 - what came before an error counts


def _spoil(settings: StoreSettings, key: str, data: bytes) -> None:
    """Put other bytes in the place of `data`, beside the digest of `data`."""
    client = Minio(
        settings.endpoint.removeprefix("http://"),
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
    )
    told = client.stat_object(settings.bucket, key).metadata
    assert told is not None
    digest = told["x-amz-meta-sha256"]
    assert digest == hashlib.sha256(data).hexdigest()
    spoilt = b"\x00" * 4 + data[4:]
    client.put_object(
        settings.bucket, key, BytesIO(spoilt), len(spoilt), metadata={"sha256": digest}
    )


async def test_a_reader_sees_the_old_or_the_new_whole_never_a_mixture(
    store: ObjectStore, place: str
) -> None:
    """While one writer replaces the object again and again."""
    versions = [bytes([number]) * 300_000 for number in range(8)]
    key = f"{place}/a"
    await store.put(key, versions[0])

    async def write() -> None:
        for version in versions:
            await store.put(key, version)

    writer = asyncio.ensure_future(write())
    seen = [await store.get(key)]
    while not writer.done():
        seen.append(await store.get(key))
    await writer

    assert set(seen) <= set(versions)
    assert await store.get(key) == versions[-1]


async def test_many_calls_at_once_do_not_disturb_each_other(store: ObjectStore, place: str) -> None:
    """More than there are threads."""
    keys = [f"{place}/{number:03}" for number in range(60)]
    await asyncio.gather(*(store.put(key, key.encode()) for key in keys))

    assert await asyncio.gather(*(store.get(key) for key in keys)) == [k.encode() for k in keys]
    assert await keys_below(store, place) == keys


async def test_a_store_that_can_be_written_to_passes_its_check(store: ObjectStore) -> None:
    """What it cannot be is in the adapters' own tests."""
    await store.check()


async def test_what_a_killed_writer_left_in_a_folder_goes_after_a_day(store_folder: Path) -> None:
    """At the next start; what is younger may still be written."""
    FolderStore(store_folder)
    old, young = store_folder / ".tmp" / "old", store_folder / ".tmp" / "young"
    for left in (old, young):
        left.write_bytes(b"half")
    then = time.time() - 90_000  # noqa: TID251 - as files have it
    os.utime(old, (then, then))

    await FolderStore(store_folder).prepare()

    assert names_in(store_folder / ".tmp") == {"young"}
