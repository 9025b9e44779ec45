"""From a body to a run: defaults, limits, and errors that name the field."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from services.api.domain.request_models import AudioParamsBody, GenerateBody
from services.api.domain.run_spec import (
    JobSpec,
    RequestInvalidError,
    RunSpec,
    body_problems,
    build_run_spec,
    digest_of,
    spec_of_body,
    spec_of_stitched,
    stitched_digest,
)
from services.api.settings import DefaultSettings, LimitSettings
from shared.contract.events import VideoStitched
from shared.contract.params import AudioParams, AudioRef, ErrorStrategy, OnMaxCost, SyncMode

LIMITS = LimitSettings(scenes_max=3, scene_s_max=30)
DEFAULTS = DefaultSettings()
TWO = [{"duration_s": 1.7}, {"duration_s": 2}]


def a_body(**fields: Any) -> GenerateBody:
    """A body as it comes from the wire."""
    return GenerateBody.model_validate_json(json.dumps({"job_id": "123", **fields}))


def asked(defaults: DefaultSettings = DEFAULTS, **fields: Any) -> RunSpec:
    """The run that a body alone asks for."""
    body = a_body(**fields)
    return build_run_spec(
        body.job_id, job=spec_of_body(body, LIMITS), params=body.audio_params, defaults=defaults
    )


def refused(**fields: Any) -> list[tuple[str, str]]:
    """The problems of a body."""
    with pytest.raises(RequestInvalidError) as caught:
        asked(**fields)
    return caught.value.problems


def test_what_is_left_out_gets_the_defaults_of_the_contract() -> None:
    """Nothing but scenes is said."""
    assert asked(scenes=TWO).params == AudioParams()


def test_null_says_nothing() -> None:
    """As if the field were not there."""
    nulls = dict.fromkeys(["fade_duration", "sync_mode", "merge_with_video", "prompt"])

    assert asked(scenes=TWO, audio_params=nulls) == asked(scenes=TWO)


def test_settings_fill_what_the_request_leaves_out_and_the_request_wins() -> None:
    """AUDIO_SYNC_MODE and its kin are defaults, not orders."""
    defaults = DefaultSettings(
        sync_mode=SyncMode.STRETCH, error_strategy=ErrorStrategy.HALT, fail_on_error=True
    )
    params = asked(defaults, scenes=TWO, audio_params={"sync_mode": "compress"}).params

    assert params.sync_mode is SyncMode.COMPRESS
    assert params.error_strategy is ErrorStrategy.HALT
    assert params.fail_on_error


def test_a_cap_of_the_settings_holds_until_a_request_names_its_own() -> None:
    """AUDIO_MAX_COST and AUDIO_ON_MAX_COST; null does not lift them."""
    defaults = DefaultSettings(max_cost=0.5, on_max_cost=OnMaxCost.ERROR_STRATEGY)
    silent = asked(defaults, scenes=TWO, audio_params={"max_cost": None}).params
    said = asked(defaults, scenes=TWO, audio_params={"max_cost": 2, "on_max_cost": "refuse"})

    assert (silent.max_cost, silent.on_max_cost) == (0.5, "error_strategy")
    assert (said.params.max_cost, said.params.on_max_cost) == (2, "refuse")


@pytest.mark.parametrize(
    ("said", "url", "key"),
    [
        ("https://x.example/a.mp3", "https://x.example/a.mp3", None),
        ({"url": "https://x.example/a.mp3", "object": None}, "https://x.example/a.mp3", None),
        ({"object": "styles/x"}, None, "styles/x"),
    ],
)
def test_a_style_sample_is_named_like_a_video(said: Any, url: str | None, key: str | None) -> None:
    """As an object of either, or as the URL alone."""
    style = asked(scenes=TWO, audio_params={"style_audio": said}).params.style_audio

    assert style == AudioRef(url=url, object=key)


@pytest.mark.parametrize("said", [{}, {"url": "https://x.example/a", "object": "styles/x"}])
def test_a_style_sample_is_named_once(said: dict[str, str]) -> None:
    """And the field is told."""
    ((field, told),) = refused(scenes=TWO, audio_params={"style_audio": said})

    assert field == "audio_params.style_audio"
    assert "either" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_cost", -0.01),
        ("max_cost", "1"),
        ("max_cost", 2_000_000),
        ("on_max_cost", "panic"),
        ("use_cache", 1),
        ("style_audio", "ftp://x.example/a"),
        ("style_audio", 5),
    ],
)
def test_a_wrong_wish_is_told_by_its_name(name: str, value: Any) -> None:
    """As every field is."""
    with pytest.raises(ValidationError) as caught:
        a_body(scenes=TWO, audio_params={name: value})

    fields = [field for field, _ in body_problems(caught.value)]
    assert fields
    assert all(field.startswith(f"audio_params.{name}") for field in fields)


def test_a_request_under_way_keeps_its_digest_when_the_api_learns_new_wishes() -> None:
    """Else asking again, after an upgrade, would begin a second run and pay for it."""
    first_release = {
        "fade_duration": 1.0,
        "sync_mode": "trim",
        "merge_with_video": False,
        "error_strategy": "continue_with_silence",
        "fail_on_error": False,
        "prompt": None,
        "transition": "auto",
    }
    scenes = [
        {"description": "", "duration_s": length, "prompt": None, "mood": None}
        for length in (1.7, 2.0)
    ]
    then = digest_of({"scenes": scenes, "video": None, "params": first_release})

    assert asked(scenes=TWO).digest() == then
    for wish in ({"max_cost": 1}, {"use_cache": False}, {"style_audio": "https://x.example/a"}):
        assert asked(scenes=TWO, audio_params=wish).digest() != then


def test_the_setting_to_merge_is_a_wish_that_needs_a_video() -> None:
    """AUDIO_MERGE_WITH_VIDEO does not make a job without a video impossible."""
    defaults = DefaultSettings(merge_with_video=True)

    assert not asked(defaults, scenes=TWO).params.merge_with_video
    assert asked(defaults, scenes=TWO, video="https://x.example/v.mp4").params.merge_with_video


def test_asking_for_a_video_without_one_names_the_field() -> None:
    """The way out is in the message."""
    [(field, message)] = refused(scenes=TWO, audio_params={"merge_with_video": True})

    assert field == "video"
    assert 'send "video"' in message


def test_a_video_is_a_url_or_an_object_never_both() -> None:
    """A plain string is a URL."""
    url = "https://x.example/v.mp4"

    assert asked(scenes=TWO, video=url) == asked(scenes=TWO, video={"url": url})
    assert refused(scenes=TWO, video={})[0][0] == "video"
    assert refused(scenes=TWO, video={"url": url, "object": "uploads/a"})[0][0] == "video"


def test_start_and_end_give_the_length_that_a_person_means() -> None:
    """3.4 - 1.7 is 1.7, not its binary neighbour."""
    scenes = [{"start_s": 0, "end_s": 1.7}, {"start_s": 1.7, "end_s": 3.4}]

    assert [scene.duration_s for scene in asked(scenes=scenes).scenes] == [1.7, 1.7]


@pytest.mark.parametrize(
    ("scenes", "field", "words"),
    [
        ([], "scenes", "at least one scene"),
        ([{"duration_s": 1}] * 4, "scenes", "at most 3"),
        ([{"duration_s": 31}], "scenes[0].duration_s", "split the scene"),
        ([{}], "scenes[0]", "give duration_s, or both start_s and end_s"),
        ([{"start_s": 2, "end_s": 1}], "scenes[0].duration_s", "greater than 0"),
        ([{"start_s": 1, "end_s": 2}], "scenes[0].start_s", "the first starts at 0 s"),
        (
            [{"start_s": 0, "end_s": 2}, {"start_s": 2.5, "end_s": 3}],
            "scenes[1].start_s",
            "a gap of 0.5 s: scenes[0] ends at 2 s",
        ),
        (
            [{"start_s": 0, "end_s": 2}, {"start_s": 1.5, "end_s": 3}],
            "scenes[1].start_s",
            "overlaps by 0.5 s",
        ),
        ([{"duration_s": 5, "start_s": 0, "end_s": 2}], "scenes[0]", "end_s - start_s is 2.0"),
    ],
)
def test_scenes_that_cannot_be_name_the_field_and_the_way_out(
    scenes: list[dict[str, Any]], field: str, words: str
) -> None:
    """Each kind of mistake."""
    [(named, message)] = refused(scenes=scenes)

    assert named == field
    assert words in message


def test_a_job_without_scenes_is_told_to_send_them() -> None:
    """Neither the request nor the job knows any."""
    assert refused()[0][0] == "scenes"


def test_equal_requests_have_equal_digests_however_they_are_written() -> None:
    """Times as spans or lengths, defaults said or left out."""
    spans = [{"start_s": 0, "end_s": 1.7}, {"start_s": 1.7, "end_s": 3.7}]

    assert asked(scenes=spans).digest() == asked(scenes=TWO).digest()
    assert (
        asked(scenes=TWO, audio_params={"fade_duration": 1}).digest() == asked(scenes=TWO).digest()
    )
    assert asked(scenes=TWO, audio_params={"prompt": "p"}).digest() != asked(scenes=TWO).digest()


def test_what_upstream_sent_stands_behind_what_the_client_says() -> None:
    """audio_params of video.stitched are the job's own defaults."""
    job = JobSpec(
        scenes=spec_of_body(a_body(scenes=TWO), LIMITS).scenes,
        audio_params={"prompt": "upstream", "fade_duration": 2.0},
    )
    said = AudioParamsBody(prompt="client")
    params = build_run_spec("123", job=job, params=said, defaults=DEFAULTS).params

    assert (params.prompt, params.fade_duration) == ("client", 2.0)


def test_upstream_is_held_to_the_same_rules() -> None:
    """Its parameters and its limits."""
    event = VideoStitched(
        job_id="1", scenes=({"duration_s": 1},), audio_params={"sync_mode": "bend"}
    )
    with pytest.raises(RequestInvalidError) as caught:
        spec_of_stitched(event, LIMITS)

    assert caught.value.problems[0][0] == "audio_params.sync_mode"


def test_the_digest_of_what_upstream_says_ignores_how_it_is_written() -> None:
    """Unknown fields and the order of fields do not make it another video."""
    one = VideoStitched.model_validate_json('{"job_id":"1","scenes":[{"duration_s":1}]}')
    other = VideoStitched.model_validate_json('{"scenes":[{"x":1,"duration_s":1.0}],"job_id":1}')

    assert stitched_digest(one) == stitched_digest(other)
