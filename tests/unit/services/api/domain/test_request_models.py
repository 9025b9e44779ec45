"""Request bodies: unknown fields and timecodes."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from services.api.domain.request_models import (
    AudioParamsBody,
    GenerateBody,
    SceneBody,
    VideoBody,
    parse_body,
)
from services.api.domain.run_spec import body_problems


def problems_of(model: Any, body: object) -> list[tuple[str, str]]:
    """Return what is wrong with a body."""
    with pytest.raises(ValidationError) as caught:
        parse_body(model, json.dumps(body))
    return body_problems(caught.value)


@pytest.mark.parametrize(
    ("body", "field", "name"),
    [
        ({"scenes": [{"duration_s": 1}, {"duration": 4}]}, "scenes[1].duration", "duration_s"),
        ({"scenes": [{"duration_s": 1, "Mood": "calm"}]}, "scenes[0].Mood", "mood"),
        ({"audio_params": {"fade": 2}}, "audio_params.fade", "fade_duration"),
        ({"audio_params": {"merge": True}}, "audio_params.merge", "merge_with_video"),
        ({"audio_params": {"maxCost": 2}}, "audio_params.maxCost", "max_cost"),
        (
            {"audio_params": {"style_audio": {"link": "x"}}},
            "audio_params.style_audio.link",
            "one of url, object",
        ),
        ({"video": {"uri": "https://x.example"}}, "video.uri", "url"),
        ({"scene": []}, "scene", "scenes"),
        ({"fade_duration": 2}, "fade_duration", "one of job_id, audio_params, scenes, video"),
    ],
)
def test_an_unknown_field_is_rejected_with_the_closest_name(
    body: dict[str, object], field: str, name: str
) -> None:
    """At every depth; the message says what to write instead."""
    assert problems_of(GenerateBody, {"job_id": "j", **body}) == [
        (field, f"unknown field: use {name}")
    ]


@pytest.mark.parametrize("model", [GenerateBody, SceneBody, AudioParamsBody, VideoBody])
def test_the_published_schema_rejects_unknown_fields(model: type[BaseModel]) -> None:
    """Clients that validate against it find the error before they send the request."""
    assert model.model_json_schema()["additionalProperties"] is False


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("00:01:02.5", 62.5),
        ("1:02,25", 62.25),
        ("0:30", 30.0),
        ("90:00", 5400.0),
        ("1:00:00", 3600.0),
        ("00:00:03.333333333", 3.333333333),
        (3.4, 3.4),
        (3, 3.0),
    ],
)
def test_a_time_is_seconds_or_a_timecode(written: object, seconds: float) -> None:
    """Exact decimals: the difference of two timecodes is exact as well."""
    assert parse_body(SceneBody, json.dumps({"end_s": written})).end_s == seconds
    assert parse_body(SceneBody, json.dumps({"duration_s": written})).duration_s == seconds


@pytest.mark.parametrize(
    "written", ["2", "1:60", "00:00:01:12", "-1:00", "1:00\n", "\u0661:00", "1e3", "", "12s", True]
)
def test_any_other_text_is_no_time(written: object) -> None:
    """The message shows the accepted form; a boolean is no number."""
    ((field, message),) = problems_of(SceneBody, {"start_s": written})

    assert field == "start_s"
    if isinstance(written, str):
        assert message == "must be a number of seconds, or a timecode such as 00:01:02.5"


def test_a_timecode_is_limited_as_a_number_is() -> None:
    """A scene of no length, and an end at zero."""
    assert [
        field for field, _ in problems_of(SceneBody, {"duration_s": "0:00", "end_s": "0:00"})
    ] == [
        "duration_s",
        "end_s",
    ]


def test_a_mood_that_is_no_text_is_rejected_with_the_moods() -> None:
    """The list is the prompt rule's."""
    assert problems_of(SceneBody, {"duration_s": 1, "mood": 7}) == [
        ("mood", "must be text, such as exciting, calm, dramatic, elegant, professional")
    ]
