"""Checks that Replicate's responses are parsed tolerantly."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from services.generator.providers.replicate.models import (
    ApiPrediction,
    error_message,
    parse_data_url,
    retry_after_s,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": None, "input": None, "metrics": None, "error": None, "data_removed": None},
        {"input": "text", "metrics": [], "created_at": "yesterday", "completed_at": 5},
        {"a_field_of_tomorrow": {"x": 1}, "status": 7},
    ],
)
def test_only_the_id_is_required(fields: dict[str, Any]) -> None:
    """A missing, null or mistyped field counts as absent."""
    answer = ApiPrediction.model_validate({"id": "p1", **fields})

    assert (answer.status, answer.input, answer.work_s, answer.output_url) == ("", {}, None, None)
    assert (answer.created_at, answer.data_removed) == (None, False)


@pytest.mark.parametrize("name", [None, "", 7, "a/b", "../x", "a" * 200, "p?x"])
def test_an_id_that_is_unsafe_in_a_path_is_rejected(name: object) -> None:
    """The id is remote input and becomes part of a URL."""
    with pytest.raises(ValidationError):
        ApiPrediction.model_validate({"id": name})


@pytest.mark.parametrize(
    "predict_time", [True, "12", -1, 86_401, 1e300, 10**400, float("inf"), float("nan"), None]
)
def test_an_invalid_predict_time_is_ignored(predict_time: object) -> None:
    """No cost is derived from it."""
    answer = ApiPrediction.model_validate({"id": "p1", "metrics": {"predict_time": predict_time}})

    assert answer.work_s is None


@pytest.mark.parametrize(
    ("body", "header", "seconds"),
    [
        (b'{"retry_after": 10}', "3", 10),
        (b'{"retry_after": "7.5"}', None, 7.5),
        (b'{"retry_after": null}', "3", 3),
        (b'{"retry_after": true}', None, None),
        (b'{"retry_after": -5}', None, 0),
        (b'{"retry_after": 1e9}', None, 3600),
        (b'{"retry_after": NaN}', "4", 4),
        (b"<html>", "Thu, 01 Jan 2026 00:00:30 GMT", 30),
        (b'{"detail": "Your rate limit resets in ~10s."}', None, 10),
        (b'{"detail": "slow down"}', "soon", None),
        (b"[]", None, None),
        (b"", None, None),
    ],
)
def test_the_retry_delay_comes_from_the_body_the_header_or_the_message(
    body: bytes, header: str | None, seconds: float | None
) -> None:
    """In this order, limited to an hour."""
    assert retry_after_s(body, header, now=NOW) == seconds


def test_an_error_keeps_the_providers_message() -> None:
    """Without a message, its status is the message."""
    assert error_message(402, b'{"title": "Insufficient credit", "detail": "Buy some"}') == (
        "Insufficient credit: Buy some"
    )
    assert error_message(502, b"<html>") == "HTTP 502"
    assert len(error_message(500, b'{"detail": "' + b"x" * 5000 + b'"}')) == 500


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("data:audio/mpeg;base64,QUJD", (b"ABC", "audio/mpeg")),
        ("data:audio/mpeg;codecs=mp3;base64,QUJD", (b"ABC", "audio/mpeg")),
        ("data:;base64,QUJD", (b"ABC", "")),
        ("data:audio/mpeg,ABC", None),
        ("data:audio/mpeg;base64,???", None),
        ("data:", None),
    ],
)
def test_a_data_url_is_parsed_or_none(url: str, parsed: tuple[bytes, str] | None) -> None:
    """Only base64 is supported."""
    assert parse_data_url(url) == parsed
