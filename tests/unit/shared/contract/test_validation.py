"""Field paths and messages of validation errors."""

import pytest
from pydantic import BaseModel, ValidationError

from shared.contract.params import Scene
from shared.contract.validation import field_path, field_problems, join_problems


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
