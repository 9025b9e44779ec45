"""JSON bodies that would exhaust the service are rejected before they are parsed."""

import json
import time
import tracemalloc

import pytest

from services.api.domain.run_spec import RequestInvalidError
from services.api.http.json_body import check_shape
from services.api.http.problems import ProblemError

SCENE = b'{"description": "a {calm}, [still] lake \\" , ", "duration_s": 1}'


def a_body(scenes: list[bytes]) -> bytes:
    """Return a request body with these scenes."""
    return b'{"job_id": "j", "scenes": [' + b",".join(scenes) + b"]}"


@pytest.mark.parametrize(
    "raw",
    [
        a_body([SCENE] * 1000),
        b'{"a": "' + b"{[,]}" * 1_000_000 + b'"}',  # text is not structure
        b'{"a": "\\u007b\\\\"}',
        b'{"a": NaN}',  # the field's own rule
        b"not json",
        b'{"a": "\xff"}',
        b'"',
        b'{"a": "' + b'\\"' * 1_000_000 + b'"}',
        b"",
        b"[" * 32,
    ],
)
def test_a_body_of_a_normal_shape_passes(raw: bytes) -> None:
    """Syntax errors are left to the reader of the body, which explains them."""
    check_shape(raw, scenes_max=1000)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}," * 1_600_000, "SEGUE_SCENES_MAX"),
        (a_body([b"{}"] * 1_600_000), "SEGUE_SCENES_MAX"),
        (a_body([b"1"] * 2_400_000), "SEGUE_SCENES_MAX"),
        (a_body([b"{}"] * 1001), "has 1001 scenes, at most 1000"),
        (b'{"x": [' + b'"a",' * 1_250_000 + b"1]}", "values"),
        (b'{"x": [' + b'"\\\\",' * 900_000 + b"1]}", "values"),
        (b"]" * 5_000_000, "values"),
        (b'{"a":' * 33, "32 levels"),
        (b"[" * 5000, "32 levels"),
        (b'{"scenes": [], "scenes": [1]}', "'scenes' twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "'b' twice"),
        (b'{"job_id": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"job_id": -' + b"9" * 101 + b"}", "digits"),
    ],
)
def test_a_body_that_would_exhaust_the_service_is_rejected(raw: bytes, message: str) -> None:
    """Within a fraction of a second, with memory of the order of the body."""
    tracemalloc.start()
    started_s = time.monotonic()
    try:
        with pytest.raises((ProblemError, RequestInvalidError), match=message):
            check_shape(raw, scenes_max=1000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.monotonic() - started_s < 5
    assert peak_bytes < 100_000_000


def test_a_string_without_an_end_is_read_in_linear_time() -> None:
    """Escapes and quotes in any order do not make the search repeat."""
    for raw in (b'"' + b"\\" * 1_000_001, b'"' + b'\\"' * 1_000_000, b'\\"' * 1_000_000):
        started_s = time.monotonic()
        check_shape(raw, scenes_max=1000)
        assert time.monotonic() - started_s < 2


def test_the_limit_grows_with_the_number_of_scenes() -> None:
    """A higher SEGUE_SCENES_MAX allows larger bodies."""
    raw = a_body([SCENE] * 5000)
    check_shape(raw, scenes_max=5000)

    assert len(json.loads(raw)["scenes"]) == 5000
    with pytest.raises(RequestInvalidError, match="5000 scenes"):
        check_shape(raw, scenes_max=1000)
