"""Replicate's answers: read tolerantly, so that no surprise in them costs a clip."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from services.generator.providers.replicate.models import (
    PredictionAnswer,
    data_of,
    retry_after_s,
    words_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"status": None, "input": None, "metrics": None, "error": None, "data_removed": None},
        {"input": "text", "metrics": [], "created_at": "yesterday", "completed_at": 5},
        {"a_field_of_tomorrow": {"x": 1}, "status": 7},
    ],
)
def test_nothing_but_the_id_is_needed(told: dict[str, Any]) -> None:
    """What is missing, null or of another kind is not there."""
    answer = PredictionAnswer.model_validate({"id": "p1", **told})

    assert (answer.status, answer.input, answer.work_s, answer.output_url) == ("", {}, None, None)
    assert (answer.created_at, answer.data_removed) == (None, False)


@pytest.mark.parametrize("name", [None, "", 7, "a/b", "../x", "a" * 200, "p?x"])
def test_an_id_that_could_not_be_part_of_a_path_is_none(name: object) -> None:
    """It comes from elsewhere and goes into a URL."""
    with pytest.raises(ValidationError):
        PredictionAnswer.model_validate({"id": name})


@pytest.mark.parametrize("told", [True, "12", -1, float("inf"), float("nan"), None])
def test_a_time_that_is_no_number_of_seconds_was_not_counted(told: object) -> None:
    """Nothing is charged by it."""
    answer = PredictionAnswer.model_validate({"id": "p1", "metrics": {"predict_time": told}})

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
def test_the_wait_is_the_bodys_or_the_headers_or_the_words(
    body: bytes, header: str | None, seconds: float | None
) -> None:
    """In this order, and never absurd."""
    assert retry_after_s(body, header, now=NOW) == seconds


def test_a_refusal_is_told_in_its_own_words() -> None:
    """Or by its number."""
    assert words_of(402, b'{"title": "Insufficient credit", "detail": "Buy some"}') == (
        "Insufficient credit: Buy some"
    )
    assert words_of(502, b"<html>") == "HTTP 502"
    assert len(words_of(500, b'{"detail": "' + b"x" * 5000 + b'"}')) == 500


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("data:audio/mpeg;base64,QUJD", (b"ABC", "audio/mpeg")),
        ("data:audio/mpeg;codecs=mp3;base64,QUJD", (b"ABC", "audio/mpeg")),
        ("data:;base64,QUJD", (b"ABC", "")),
        ("data:audio/mpeg,ABC", None),
        ("data:audio/mpeg;base64,???", None),
        ("data:", None),
    ],
)
def test_a_data_url_is_read_or_is_none(url: str, read: tuple[bytes, str] | None) -> None:
    """Only base64: nothing else was ever seen."""
    assert data_of(url) == read
