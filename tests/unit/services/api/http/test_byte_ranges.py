"""Ranges and file names of answers."""

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
    ("header", "span"),
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
def test_a_range_is_what_the_header_says_and_nonsense_is_no_range(
    header: str | None, span: ByteRange | None
) -> None:
    """Of an object of ten bytes."""
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99-100"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    """416, not an empty answer."""
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 10)


@given(st.text(max_size=30), st.integers(0, 1000))
def test_a_span_always_lies_inside_the_object(header: str, size: int) -> None:
    """Whatever the header says."""
    try:
        span = parse_range(f"bytes={header}", size)
    except UnsatisfiableRangeError:
        return
    if span is not None:
        assert 0 <= span.start < span.end <= size


def test_a_plain_job_id_is_its_file_name() -> None:
    """No second form is needed."""
    assert attachment("job 1", ".mp3") == 'attachment; filename="job 1.mp3"'


def test_an_odd_job_id_keeps_its_letters_in_the_extended_form() -> None:
    """And cannot break out of the quotes of the plain one."""
    told = attachment('a"\N{MUSICAL NOTE}', ".mp3")

    assert told == "attachment; filename=\"a__.mp3\"; filename*=UTF-8''a%22%F0%9F%8E%B5.mp3"
    assert told.isascii()
