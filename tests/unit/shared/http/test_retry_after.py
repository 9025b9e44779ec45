"""Retry-After is parsed as seconds or as a date, within bounds."""

from datetime import UTC, datetime

import pytest

from shared.http.retry_after import parse_retry_after

NOW = datetime(2015, 10, 21, 7, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17.0),
        (2.5, 2.5),
        ("999999", 3600.0),
        ("999999999", 3600.0),
        (999_999_999, 3600.0),
        (10**400, None),
        ("1e400", None),
        ("-1", 0.0),
        (-1e300, 0.0),
        ("nan", None),
        (float("nan"), None),
        ([5], None),
        ({}, None),
        ("Wed, 21 Oct 9999 07:30:00 GMT", 3600.0),
        ("Wed, 21 Oct 99999 07:30:00 GMT", None),
        ("Wed, 21 Oct 2015 07:30:00 -0000", None),
        ("Wed, 21 Oct 2015 07:30:00 +9999", None),
        ("Wed, 21 Oct 2015 07:30:00 GMT", 120.0),
        ("Wed, 21 Oct 2015 07:20:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("", None),
        (True, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: object, seconds: float | None) -> None:
    """A wait is at least 0 s and at most an hour; anything else is ignored."""
    assert parse_retry_after(value, now=NOW) == seconds


def test_a_date_without_a_clock_is_ignored() -> None:
    """Only seconds are accepted then."""
    assert parse_retry_after("Wed, 21 Oct 2015 07:30:00 GMT", now=None) is None
    assert parse_retry_after("3", now=None) == 3.0
