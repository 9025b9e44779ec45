"""Fetching: a fetcher with limits a test can reach, and what came of it."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from shared.contract.params import VideoRef
from shared.http.fetcher import Fetcher, Resolve, resolve
from shared.http.video_source import FetchSettings, video_fetcher
from shared.storage.filesystem import FolderStore
from tests.unit.shared.http.upstream_server import Upstream

VIDEO = bytes(range(256)) * 20_000  # 5 MB


def a_fetcher(
    folder: Path,
    *,
    private: str = "127.0.0.1",
    resolver: Resolve = resolve,
    verify: ssl.SSLContext | None = None,
    **limits: float,
) -> Fetcher:
    """A fetcher that may ask 127.0.0.1, with limits a test can reach."""
    settings = FetchSettings(allowed_private_hosts=private, **{"timeout_s": 20, **limits})  # type: ignore[arg-type]
    return video_fetcher(FolderStore(folder / "store"), settings, resolve=resolver, verify=verify)


async def fetched(
    fetcher: Fetcher, server: Upstream, path: str, folder: Path, *, host: str = "127.0.0.1"
) -> bytes:
    """What came from `path` of `server`."""
    target = folder / "video"
    await fetcher.fetch(VideoRef(url=f"http://{host}:{server.port}{path}"), target)
    return target.read_bytes()


def always(*addresses: str) -> Resolve:
    """A resolver with one answer."""

    async def answer(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return answer
