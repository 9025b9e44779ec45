"""Field paths and messages of validation errors."""

import re
from datetime import datetime
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contract.params import Scene
from shared.contract.validation import (
    closest_name,
    field_path,
    field_problems,
    join_problems,
    plain_message,
    unknown_field_message,
)

SCENE_FIELDS = ("description", "duration_s", "start_s", "end_s", "prompt", "mood")


class Body(BaseModel):
    """A model with a nested list."""

    scenes: list[Scene]


def error_of(value: object) -> ValidationError:
    """Return the error of an invalid body."""
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(value)
    return caught.value


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (("scenes", 2, "duration_s"), "scenes[2].duration_s"),
        (("video", "by-reference", "url"), "video.url"),
        ((0, "a"), "[0].a"),
        ((), "body"),
    ],
)
def test_a_location_becomes_a_field_path(loc: tuple[int | str, ...], path: str) -> None:
    """Indices are in brackets; tags are left out; the empty path has a name."""
    assert field_path(loc, skip={"by-reference"}, root="body") == path


def test_a_problem_has_the_path_and_the_plain_message() -> None:
    """The message does not name the exception class."""
    error = error_of({"scenes": [{"duration_s": 1}, {}]})

    assert field_problems(error, prefix="request") == [
        ("request.scenes[1]", "give duration_s, or both start_s and end_s")
    ]


@pytest.mark.parametrize(("count", "ending"), [(5, "f4: m"), (6, "f4: m (and 1 more)")])
def test_joined_problems_are_limited_to_five(count: int, ending: str) -> None:
    """The text states how many problems are left out."""
    text = join_problems([(f"f{number}", "m") for number in range(count)])

    assert text.startswith("f0: m; f1: m; ")
    assert text.endswith(ending)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("duration", "duration_s"),
        ("durationS", "duration_s"),
        ("Duration_s", "duration_s"),
        ("start", "start_s"),
        ("end", "end_s"),
        ("desc", "description"),
        ("descripton", "description"),
        ("moods", "mood"),
        ("promt", "prompt"),
        ("s", None),
        ("", None),
        ("camera", None),
    ],
)
def test_an_unknown_field_is_compared_with_the_known_ones(given: str, name: str | None) -> None:
    """Parts of a name, other spellings and typing errors are close; other words are not."""
    assert closest_name(given, SCENE_FIELDS) == name


def test_the_message_of_an_unknown_field_names_the_closest_or_all() -> None:
    """Either way the reader knows what to write."""
    assert unknown_field_message("fade", ["prompt", "fade_duration"]) == (
        "unknown field: use fade_duration"
    )
    assert unknown_field_message("x", ["url", "object"]) == "unknown field: use one of url, object"


def test_a_scene_of_upstream_without_a_length_names_a_misspelt_one() -> None:
    """Readers of events ignore unknown fields, but this one is the reason of the error."""
    error = error_of({"scenes": [{"duration": 4, "id": 7}]})

    assert field_problems(error) == [
        (
            "scenes[0]",
            'give duration_s, or both start_s and end_s; "duration" is unknown: use duration_s',
        )
    ]


class Typed(BaseModel):
    """A field of every kind that requests, events and settings have."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field("x", min_length=1, max_length=3, pattern="^x+$")
    whole: int = Field(1, ge=0, le=9)
    number: float = Field(1.0, gt=0, lt=10, allow_inf_nan=False)
    flag: bool = False
    items: list[int] = Field([1], min_length=1, max_length=2)
    mode: Literal["trim", "stretch"] = "trim"
    at: datetime | None = None
    scene: Scene | None = None
    folder: Path | None = None
    needed: int


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needed: is required"),
        ({"text": 1}, "text: must be a text"),
        ({"text": ""}, "text: must have at least 1 character"),
        ({"text": "xxxx"}, "text: must have at most 3 characters"),
        ({"text": "y"}, "text: has a wrong form or wrong characters"),
        ({"whole": -1}, "whole: must be at least 0"),
        ({"whole": 10}, "whole: must be at most 9"),
        ({"whole": "many"}, "whole: must be a whole number"),
        ({"whole": 1.5}, "whole: must be a whole number"),
        ({"number": 0}, "number: must be greater than 0"),
        ({"number": 10}, "number: must be less than 10"),
        ({"number": "long"}, "number: must be a number"),
        ({"number": float("nan")}, "number: must be a number"),
        ({"flag": "perhaps"}, "flag: must be true or false"),
        ({"items": 7}, "items: must be a list"),
        ({"items": []}, "items: must have at least 1 item, not 0"),
        ({"items": [1, 2, 3]}, "items: must have at most 2 items, not 3"),
        ({"mode": "warp"}, "mode: must be 'trim' or 'stretch'"),
        ({"at": "soon"}, "at: must be a time, as 2026-01-31T12:00:00Z"),
        ({"scene": 7}, "scene: must be an object"),
        ({"folder": 7}, "folder: must be a valid path"),
        ({"duration": 1}, "duration: is not a known field: remove it"),
    ],
)
def test_a_message_states_what_the_field_must_be(given: dict[str, object], message: str) -> None:
    """No text of pydantic, no name of Python."""
    with pytest.raises(ValidationError) as caught:
        Typed.model_validate({"needed": 1, **given} if given else {})

    [(field, text)] = field_problems(caught.value)
    assert f"{field}: {text}" == message


def test_a_value_that_is_not_json_is_reported_as_such() -> None:
    """The rest is where it ends."""
    with pytest.raises(ValidationError) as caught:
        Typed.model_validate_json('{"job')

    [(field, text)] = field_problems(caught.value)
    assert (field, text.partition(": ")[0]) == ("value", "is not valid JSON")


def test_no_message_of_pydantic_is_passed_on_unchanged() -> None:
    """Every text that pydantic documents starts differently afterwards."""
    texts = [
        "Field required",
        "Extra inputs are not permitted",
        "Input should be a valid dictionary or instance of Scene",
        "Input should be a valid integer, unable to parse string as an integer",
        "Input should be a valid UUID, invalid length",
        "String should have at least 1 character",
        "Value error, is too long",
        "Assertion failed, is too long",
        "JSON input should be string, bytes or bytearray",
        "Unable to extract tag using discriminator 'kind'",
    ]
    python = re.compile(
        r"Input should|Field required|Extra inputs|dictionary|instance of|Value error"
    )

    assert [text for text in texts if python.search(plain_message(text))] == []
