"""The S3 store: behaviour that only a bucket can have."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio

from ops.cluster.prepare import honours_put_if_absent
from shared.errors import StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage.s3.store import S3Store

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(minio: StoreSettings) -> AsyncIterator[S3Store]:
    """Yield a store on the run's bucket."""
    opened = S3Store(minio)
    await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture
def key() -> str:
    """Return a key that no other test uses."""
    return f"test/{secrets.token_hex(6)}/a"


def put_raw(settings: StoreSettings, key: str, data: bytes, sha256: str | None) -> None:
    """Put an object as another client does."""
    client = Minio(
        urlsplit(settings.endpoint).netloc,
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
        region=settings.region,
    )
    metadata: dict[str, str | list[str] | tuple[str]] = {"sha256": sha256} if sha256 else {}
    client.put_object(settings.bucket, key, BytesIO(data), len(data), metadata=metadata)


async def test_corrupted_bytes_are_never_returned(
    store: S3Store, minio: StoreSettings, key: str, tmp_path: Path
) -> None:
    """Neither in memory nor in a file, and no partial file remains."""
    put_raw(minio, key, b"rotten", hashlib.sha256(b"fresh").hexdigest())

    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get(key)
    with pytest.raises(StoreUnavailableError, match="checksum mismatch"):
        await store.get_file(key, tmp_path / "file")

    assert not list(tmp_path.iterdir())


async def test_an_object_of_another_client_needs_no_hash(
    store: S3Store, minio: StoreSettings, key: str
) -> None:
    """The upstream puts its videos with other clients."""
    put_raw(minio, key, b"theirs", None)

    assert await store.get(key) == b"theirs"


async def test_an_existing_bucket_is_not_created_again(store: S3Store) -> None:
    """Every service may prepare the store at its start."""
    await store.prepare()
    await store.check()


async def test_the_bucket_honours_put_if_absent(store: S3Store) -> None:
    """As `segue prepare` checks it."""
    assert await honours_put_if_absent(store)


async def test_without_its_bucket_the_store_is_unavailable_not_empty(
    minio: StoreSettings,
) -> None:
    """A wrong bucket name must not be reported as a missing object."""
    store = S3Store(minio.model_copy(update={"bucket": f"none-{secrets.token_hex(4)}"}))
    try:
        calls = (
            *(store.get("a"), store.stat("a"), store.delete("a"), store.check()),
            store.put_if_absent("a", b"x"),
        )
        for call in calls:
            with pytest.raises(StoreUnavailableError, match=r"NoSuchBucket.*segue prepare"):
                await call
    finally:
        await store.close()


async def test_wrong_keys_are_reported_as_a_fault_of_the_store(minio: StoreSettings) -> None:
    """The message has the server's own error code."""
    settings = minio.model_copy(update={"access_key": type(minio.access_key)("unknown")})
    store = S3Store(settings)
    try:
        with pytest.raises(
            StoreUnavailableError, match="set MINIO_ACCESS_KEY to a key of this server"
        ):
            await store.check()
    finally:
        await store.close()
