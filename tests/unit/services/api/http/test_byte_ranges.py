"""Byte ranges and file names of responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.byte_ranges import (
    ByteRange,
    UnsatisfiableRangeError,
    attachment,
    parse_range,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-4", ByteRange(0, 5)),
        ("bytes=5-", ByteRange(5, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-30", ByteRange(0, 10)),
        ("bytes=8-99", ByteRange(8, 10)),
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
