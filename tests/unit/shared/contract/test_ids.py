"""Job ids are validated; derived ids are stable and unique."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contract.ids import JOB_ID_CHARS_MAX, check_job_id, event_id, job_uuid, scene_seed


@pytest.mark.parametrize(
    "legal", ["123", "a b", "wedding-42", "häuser:2026", "🎬🎵", "👩‍👩‍👧", "%2F?#&=", "x" * 200]
)
def test_a_valid_job_id_is_unchanged(legal: str) -> None:
    """Also with emoji and with characters that URLs escape."""
    assert check_job_id(legal) == legal


@pytest.mark.parametrize(("number", "text"), [(123, "123"), (0, "0"), (-5, "-5")])
def test_an_integer_job_id_becomes_text(number: int, text: str) -> None:
    """`123` and `"123"` are the same job."""
    assert check_job_id(number) == text


@pytest.mark.parametrize(
    ("illegal", "problem"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a/b", "slash|URL"),
        ("a\\b", "URL"),
        ("..", "URL"),
        (".", "URL"),
        (" a", "space"),
        ("a\n", "control"),
        ("a\x00b", "control"),
        ("a\u2028b", "control"),
        ("\ud83d", "control"),
        ("x" * 201, "201 characters, at most 200"),
        ("🎵" * 2560, "2560 characters, at most 200"),
        (True, "string or an integer"),
        (1.0, "string or an integer"),
        (None, "string or an integer"),
        (["a"], "string or an integer"),
    ],
)
def test_an_invalid_job_id_is_rejected_with_the_reason(illegal: object, problem: str) -> None:
    """Too long, slashes, control characters, and values of other types."""
    with pytest.raises(ValueError, match=problem):
        check_job_id(illegal)


def test_an_integer_of_ten_thousand_digits_is_rejected() -> None:
    """Python cannot convert it to text; the error is still a validation error."""
    with pytest.raises(ValueError, match=r"digits|characters"):
        check_job_id(10**10_000)


@given(st.text(max_size=JOB_ID_CHARS_MAX + 5))
def test_a_valid_job_id_is_safe_in_keys_headers_and_urls(text: str) -> None:
    """A record key, a header and one segment of a URL path can contain it."""
    try:
        job_id = check_job_id(text)
    except ValueError:
        return
    assert job_id == text
    assert job_id.encode().decode() == job_id
    assert "/" not in job_id
    assert not any(unicodedata.category(char) == "Cc" for char in job_id)


def test_derived_ids_never_change() -> None:
    """Stored objects and published events are found by these ids."""
    assert job_uuid("wedding-42") == "7f315a1093425fcb8dd81e2a4c2afb77"
    assert event_id("wedding-42", 1, "scene.requested", 1) == "4759df73-b414-55c2-9331-d4ad0e7cec10"
    assert scene_seed("wedding-42", 1, 1, 1) == 1_962_762_017


@given(st.tuples(st.text(max_size=5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)))
def test_a_seed_is_repeatable_and_in_range(scene: tuple[str, int, int, int]) -> None:
    """0 means "random" to the model, so it is excluded."""
    job_id, run, index, attempt = scene
    seed = scene_seed(job_id, run, index, attempt)

    assert seed == scene_seed(job_id, run, index, attempt)
    assert 1 <= seed < 2**32
    assert seed != scene_seed(job_id, run, index, attempt + 1)


def test_every_part_of_an_event_changes_its_id() -> None:
    """Job, run, kind and scene."""
    events = [
        ("a", 1, "scene.requested", 0),
        ("b", 1, "scene.requested", 0),
        ("a", 2, "scene.requested", 0),
        ("a", 1, "segment.generated", 0),
        ("a", 1, "scene.requested", 1),
        ("a", 1, "scene.requested", 10),
    ]
    assert len({event_id(*event) for event in events}) == len(events)
