"""Byte ranges and file names of responses."""

from pathlib import Path

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response, StreamingResponse

from services.api.http.byte_ranges import (
    ByteRange,
    UnsatisfiableRangeError,
    attachment,
    parse_range,
    respond,
)
from shared.storage.filesystem import FolderStore


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-4", ByteRange(0, 5)),
        ("bytes=5-", ByteRange(5, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-30", ByteRange(0, 10)),
        ("bytes=8-99", ByteRange(8, 10)),
        ("bytes=4-4", ByteRange(4, 5)),
        ("bytes=9-", ByteRange(9, 10)),
        (None, None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=x-y", None),
    ],
)
def test_a_malformed_range_is_ignored(header: str | None, expected: ByteRange | None) -> None:
    """Valid and malformed ranges of an object of ten bytes."""
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99-100"])
def test_a_range_beyond_the_end_is_rejected(header: str) -> None:
    """It is 416, not an empty response."""
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 10)


@given(st.text(max_size=30), st.integers(0, 1000))
def test_a_range_is_always_inside_the_object(header: str, size: int) -> None:
    """For any header."""
    try:
        byte_range = parse_range(f"bytes={header}", size)
    except UnsatisfiableRangeError:
        return
    if byte_range is not None:
        assert 0 <= byte_range.start < byte_range.end <= size


def test_a_plain_job_id_is_the_file_name() -> None:
    """The extended form is left out."""
    assert attachment("job 1", ".mp3") == 'attachment; filename="job 1.mp3"'


def test_a_special_job_id_is_encoded_in_the_extended_form() -> None:
    """The plain form replaces characters that would end the quotes."""
    header = attachment('a"\N{MUSICAL NOTE}', ".mp3")

    assert header == "attachment; filename=\"a__.mp3\"; filename*=UTF-8''a%22%F0%9F%8E%B5.mp3"
    assert header.isascii()


DATA = b"0123456789"


class ServedObject:
    """An object of ten bytes in a folder store, served by `respond`."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)

    async def get(self, method: str = "GET", **headers: str) -> tuple[Response, bytes]:
        """Return the response to a request with these headers, and its body."""
        if await self.store.stat("a/b.mp3") is None:
            await self.store.put("a/b.mp3", DATA)
        stat = await self.store.stat("a/b.mp3")
        assert stat is not None
        names = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "server": ("segue.example", 80),
            "path": "/object",
            "query_string": b"",
            "headers": names,
        }
        response = respond(Request(scope), self.store, stat, headers={"X-Job": "1"})
        if not isinstance(response, StreamingResponse):
            assert isinstance(response.body, bytes)
            return response, response.body
        chunks = [chunk async for chunk in response.body_iterator if isinstance(chunk, bytes)]
        return response, b"".join(chunks)

    async def etag(self) -> str:
        """Return the ETag of the object."""
        return (await self.get())[0].headers["etag"]


@pytest.fixture
def served(tmp_path: Path) -> ServedObject:
    """Return a served object."""
    return ServedObject(tmp_path)


async def test_an_object_is_served_whole(served: ServedObject) -> None:
    """With its length, type and validator."""
    response, body = await served.get()

    assert (response.status_code, body) == (200, DATA)
    assert response.headers["content-length"] == "10"
    assert response.headers["content-type"] == "audio/mpeg"
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["x-job"] == "1"
    assert "content-range" not in response.headers


async def test_a_range_of_an_object_is_served(served: ServedObject) -> None:
    """206 with the range and its length; the last byte is included."""
    response, body = await served.get(range="bytes=2-5")

    assert (response.status_code, body) == (206, b"2345")
    assert response.headers["content-range"] == "bytes 2-5/10"
    assert response.headers["content-length"] == "4"


async def test_head_returns_the_headers_of_the_whole_object(served: ServedObject) -> None:
    """A range of a HEAD request is ignored, even beyond the end."""
    response, body = await served.get("HEAD", range="bytes=99-")

    assert (response.status_code, body) == (200, b"")
    assert response.headers["content-length"] == "10"


async def test_a_range_beyond_the_end_returns_416(served: ServedObject) -> None:
    """With the size of the object."""
    response, _ = await served.get(range="bytes=10-")

    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("header", ["{}", "W/{}", '"other", {}', "*", '"other", *'])
async def test_an_unchanged_object_is_not_sent_again(served: ServedObject, header: str) -> None:
    """304 for a matching If-None-Match; it is evaluated before Range."""
    response, body = await served.get(
        if_none_match=header.format(await served.etag()), range="bytes=99-"
    )

    assert (response.status_code, body) == (304, b"")


async def test_a_changed_object_is_sent(served: ServedObject) -> None:
    """200 if no entity tag matches."""
    response, body = await served.get(if_none_match='"other"')

    assert (response.status_code, body) == (200, DATA)


async def test_a_range_of_a_changed_object_is_ignored(served: ServedObject) -> None:
    """`If-Range` with the current entity tag returns the range, any other value the object."""
    unchanged, part = await served.get(range="bytes=2-5", if_range=await served.etag())
    changed, whole = await served.get(range="bytes=2-5", if_range='"other"')

    assert (unchanged.status_code, part) == (206, b"2345")
    assert (changed.status_code, whole) == (200, DATA)
