"""Field paths and messages of validation errors."""

import pytest
from pydantic import BaseModel, ValidationError

from shared.contract.params import Scene
from shared.contract.validation import (
    closest_name,
    field_path,
    field_problems,
    join_problems,
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
