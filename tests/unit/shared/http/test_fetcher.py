"""The fetcher downloads a complete video, or raises an error with the reason."""

import asyncio
from pathlib import Path

import pytest

from shared.contract.params import VideoRef
from shared.errors import MediaError, RetryableError, SegueError
from shared.storage.filesystem import FolderStore
from tests.unit.shared.http.fetcher_fixture import VIDEO, a_fetcher, fetched
from tests.unit.shared.http.upstream_server import Answer, upstream


async def test_fetcher_downloads_a_video(tmp_path: Path) -> None:
    """Byte for byte, with the headers of a plain client."""
    async with upstream() as server:
        server.answers["/v.mp4?key=1"] = Answer(body=VIDEO)

        assert await fetched(a_fetcher(tmp_path), server, "/v.mp4?key=1", tmp_path) == VIDEO
        assert f"host: 127.0.0.1:{server.port}\r\n" in server.requests[0].lower()
        assert "accept-encoding: identity\r\n" in server.requests[0].lower()


async def test_fetcher_copies_a_video_from_the_store(tmp_path: Path) -> None:
    """The reference has an object key."""
    store = FolderStore(tmp_path / "store")
    await store.put("uploads/abc", VIDEO)

    await a_fetcher(tmp_path).fetch(VideoRef(object="uploads/abc"), tmp_path / "video")

    assert (tmp_path / "video").read_bytes() == VIDEO


@pytest.mark.parametrize("key", ["uploads/none", "../../etc/passwd", "/etc/passwd", "a//b", ""])
async def test_missing_object_is_named(tmp_path: Path, key: str) -> None:
    """Keys that could leave the store are invalid."""
    with pytest.raises(MediaError, match=r"^video\.object: object not found"):
        await a_fetcher(tmp_path).fetch(VideoRef(object=key), tmp_path / "video")


async def test_object_beyond_the_limit_is_rejected(tmp_path: Path) -> None:
    """Before it is copied."""
    await FolderStore(tmp_path / "store").put("uploads/abc", VIDEO)

    with pytest.raises(MediaError, match=r"^video\.object: .*5120000 bytes"):
        await a_fetcher(tmp_path, bytes_max=1000).fetch(
            VideoRef(object="uploads/abc"), tmp_path / "video"
        )
    assert not (tmp_path / "video").exists()


async def test_unknown_host_is_named(tmp_path: Path) -> None:
    """`.invalid` never exists (RFC 2606)."""
    with pytest.raises(SegueError, match=r"film\.invalid") as caught:
        await a_fetcher(tmp_path).fetch(
            VideoRef(url="http://film.invalid/v.mp4"), tmp_path / "video"
        )
    assert isinstance(caught.value, MediaError | RetryableError)  # without any DNS: the latter


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "403 Forbidden", "404 Not Found"])
@pytest.mark.parametrize("path", ["/v?sig=secret"])
async def test_error_has_the_status_and_not_the_query_of_the_url(
    tmp_path: Path, status: str, path: str
) -> None:
    """A signature in a URL must not appear in a status that others read."""
    async with upstream() as server:
        server.answers[path] = Answer(status=status, body=b"no")

        with pytest.raises(MediaError, match=rf"^video\.url: 127\.0\.0\.1 returned {status}") as e:
            await fetched(a_fetcher(tmp_path), server, path, tmp_path)
        assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_s"),
    [
        ("500 Oops", {}, None),
        ("503 Busy", {"Retry-After": "17"}, 17.0),
        ("429 Slow", {"Retry-After": "999999"}, 3600.0),
        (
            "429 Slow",
            {
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
                "Retry-After": "Wed, 21 Oct 2015 07:30:00 GMT",
            },
            120.0,
        ),
        ("503 Busy", {"Retry-After": "soon"}, None),
        ("408 Timeout", {}, None),
    ],
)
async def test_busy_server_is_retried_after_the_time_it_asks_for(
    tmp_path: Path, status: str, headers: dict[str, str], retry_after_s: float | None
) -> None:
    """The requested wait is passed on, up to an hour."""
    async with upstream() as server:
        server.answers["/v"] = Answer(status=status, headers=headers)

        with pytest.raises(RetryableError, match=status[:3]) as caught:
            await fetched(a_fetcher(tmp_path), server, "/v", tmp_path)
        assert caught.value.retry_after_s == retry_after_s
        assert len(server.requests) == 1


@pytest.mark.parametrize("promised", [len(VIDEO), -1])
async def test_body_beyond_the_limit_is_rejected(tmp_path: Path, promised: int) -> None:
    """By its Content-Length, or while reading without one."""
    async with upstream() as server:
        server.answers["/v"] = Answer(body=VIDEO, promised=promised)

        with pytest.raises(MediaError, match="SEGUE_FETCH_BYTES_MAX"):
            await fetched(a_fetcher(tmp_path, bytes_max=2_000_000), server, "/v", tmp_path)
    written = tmp_path / "video"
    assert not written.exists() or written.stat().st_size <= 2_000_000


async def test_truncated_body_is_retried(tmp_path: Path) -> None:
    """A partial file is never used."""
    async with upstream() as server:
        server.answers["/v"] = Answer(body=VIDEO[:1000], promised=len(VIDEO))

        with pytest.raises(RetryableError, match="connection to"):
            await fetched(a_fetcher(tmp_path), server, "/v", tmp_path)


async def test_server_that_never_answers_times_out(tmp_path: Path) -> None:
    """The whole download has one deadline."""
    async with upstream() as server:
        server.answers["/v"] = Answer(silent=True)

        with pytest.raises(RetryableError, match=r"within 0\.2 s"):
            await fetched(a_fetcher(tmp_path, timeout_s=0.2), server, "/v", tmp_path)


async def test_refused_connection_is_retried(tmp_path: Path) -> None:
    """A server that restarts refuses connections for a moment."""
    async with upstream() as server:
        pass

    with pytest.raises(RetryableError, match="connection to"):
        await fetched(a_fetcher(tmp_path), server, "/v", tmp_path)


async def test_compressed_response_is_rejected(tmp_path: Path) -> None:
    """A small body that decompresses to a large one is never read."""
    async with upstream() as server:
        server.answers["/v"] = Answer(body=b"xx", headers={"Content-Encoding": "gzip"})

        with pytest.raises(MediaError, match="compressed"):
            await fetched(a_fetcher(tmp_path), server, "/v", tmp_path)


@pytest.mark.parametrize("prefix", ["jobs", "cache", "health"])
async def test_an_object_of_segue_is_not_a_users_media(tmp_path: Path, prefix: str) -> None:
    """A client may not read the track of another job through one of its own, on any path."""
    key = f"{prefix}/00112233/track.mp3"
    await FolderStore(tmp_path / "store").put(key, VIDEO)

    with pytest.raises(MediaError, match=r"^video\.object: .* is not an uploaded file"):
        await a_fetcher(tmp_path).fetch(VideoRef(object=key), tmp_path / "video")
    assert not (tmp_path / "video").exists()


async def test_a_server_that_sends_too_slowly_is_given_up(tmp_path: Path) -> None:
    """A byte every 10 ms never exceeds a timeout per read; a fast body and a short one pass."""
    fetcher = a_fetcher(tmp_path, rate_window_s=0.2, rate_bytes_per_s_min=1000)
    async with upstream() as server:
        server.answers["/slow"] = Answer(body=b"x" * 1000, pause_s=0.01)
        server.answers["/fast"] = Answer(body=VIDEO)
        server.answers["/short"] = Answer(body=b"x" * 5, pause_s=0.01)

        with pytest.raises(MediaError, match=r"^video\.url: .*too slowly: .* in 0\.2 s") as caught:
            await fetched(fetcher, server, "/slow", tmp_path)
        assert (caught.value.code, caught.value.retryable) == ("video_unavailable", True)
        assert await fetched(fetcher, server, "/fast", tmp_path) == VIDEO
        assert await fetched(fetcher, server, "/short", tmp_path) == b"x" * 5


async def test_a_header_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """Every line of it arrives in time."""
    async with upstream() as server:
        server.answers["/v"] = Answer(endless_header=True)

        with pytest.raises(RetryableError, match=r"did not respond in 0\.3 s"):
            await fetched(a_fetcher(tmp_path, rate_window_s=0.1), server, "/v", tmp_path)


async def test_one_address_serves_a_limited_number_of_downloads(tmp_path: Path) -> None:
    """Another address is not affected."""
    fetcher = a_fetcher(tmp_path, private="127.0.0.0/8", host_slots=2)
    async with upstream("127.0.0.1", "127.0.0.2") as server:
        server.answers["/slow"] = Answer(body=b"x" * 1000, pause_s=0.01)
        server.answers["/fast"] = Answer(body=VIDEO)
        slow = [
            asyncio.ensure_future(
                fetcher.fetch(VideoRef(url=f"http://127.0.0.1:{server.port}/slow"), tmp_path / n)
            )
            for n in ("a", "b", "c")
        ]
        async with asyncio.timeout(5):
            while server.slow < 2:  # noqa: ASYNC110 - another task's connections
                await asyncio.sleep(0.01)
            got = await fetched(fetcher, server, "/fast", tmp_path, host="127.0.0.2")
        connections = server.connections
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    assert got == VIDEO
    assert connections == 3, "two slow ones and the fast one"
