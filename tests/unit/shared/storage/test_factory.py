"""Which store the settings open, without a server."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import SettingsError, StoreUnavailableError
from shared.http.server import free_ports
from shared.settings import StoreSettings
from shared.storage.factory import open_store
from shared.storage.filesystem import FolderStore
from shared.storage.s3.store import S3Store


def settings(**overrides: object) -> StoreSettings:
    """Return settings of a server with keys, with overrides."""
    keys = {"access_key": SecretStr("a"), "secret_key": SecretStr("b")}
    return StoreSettings.from_environment(**{**keys, **overrides})


async def test_folder_overrides_the_server(tmp_path: Path) -> None:
    """If both are set."""
    assert isinstance(open_store(settings(folder=tmp_path)), FolderStore)


async def test_store_without_a_folder_is_the_s3_server() -> None:
    """Opening the store does not connect; the first call does."""
    connected = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(settings(endpoint=f"http://127.0.0.1:{port}"))
        await asyncio.sleep(0.05)
        assert isinstance(store, S3Store)
        assert not connected.is_set()
        with pytest.raises(StoreUnavailableError):
            await store.check()
        await store.close()

    assert connected.is_set()


@pytest.mark.parametrize("missing", ["access_key", "secret_key"])
def test_missing_keys_are_named(missing: str) -> None:
    """With both variables, and the folder that needs none."""
    with pytest.raises(SettingsError, match=r"MINIO_ACCESS_KEY.*SECRET_KEY.*SEGUE_STORE_DIR"):
        open_store(settings(**{missing: SecretStr("")}))


@pytest.mark.parametrize("endpoint", ["minio:9000", "ftp://minio", "http://", "http://minio/path"])
def test_invalid_endpoint_is_rejected(endpoint: str) -> None:
    """It must be a scheme and a host only."""
    with pytest.raises(SettingsError, match="MINIO_ENDPOINT"):
        open_store(settings(endpoint=endpoint))


@pytest.mark.parametrize("bucket", ["my bucket", "a..b", "192.168.1.1"])
def test_invalid_bucket_name_is_rejected(bucket: str) -> None:
    """At the start, not at the first call."""
    with pytest.raises(SettingsError, match=f"MINIO_BUCKET.*{bucket}"):
        open_store(settings(bucket=bucket))


async def test_unreachable_server_raises_store_unavailable_on_every_call() -> None:
    """Retryable, and never an error of the client library."""
    (port,) = free_ports(1)
    store = S3Store(settings(endpoint=f"http://127.0.0.1:{port}"))
    try:
        for call in (
            store.get("a"),
            store.put("a", b"x"),
            store.put_if_absent("a", b"x"),
            store.stat("a"),
            store.delete("a"),
            store.check(),
            store.prepare(),
        ):
            with pytest.raises(StoreUnavailableError, match="object store"):
                await call
    finally:
        await store.close()
