"""Run specifications from request bodies: defaults, limits, and errors that name the field."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from services.api.domain.request_fields import SCENE_S_MIN
from services.api.domain.request_models import AudioParamsBody, GenerateBody, SceneBody
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
from shared.contract.params import AudioParams, AudioRef, ErrorStrategy, OnMaxCost, Scene, SyncMode

LIMITS = LimitSettings(scenes_max=3, scene_s_max=30)
DEFAULTS = DefaultSettings()
TWO = [{"duration_s": 1.7}, {"duration_s": 2}]


def a_body(**fields: Any) -> GenerateBody:
    """Return a request body, parsed from JSON."""
    return GenerateBody.model_validate_json(json.dumps({"job_id": "123", **fields}))


def spec_for(defaults: DefaultSettings = DEFAULTS, **fields: Any) -> RunSpec:
    """Return the run that a body requests for a new job."""
    body = a_body(**fields)
    return build_run_spec(
        body.job_id, job=spec_of_body(body, LIMITS), params=body.audio_params, defaults=defaults
    )


def problems_for(**fields: Any) -> list[tuple[str, str]]:
    """Return the problems of an invalid body."""
    with pytest.raises(RequestInvalidError) as caught:
        spec_for(**fields)
    return caught.value.problems


def test_missing_fields_get_the_contracts_defaults() -> None:
    """A body with scenes only."""
    assert spec_for(scenes=TWO).params == AudioParams(max_cost=10.0)


def test_null_is_a_missing_field() -> None:
    """A null field gets its default."""
    nulls = dict.fromkeys(["fade_duration", "sync_mode", "merge_with_video", "prompt"])

    assert spec_for(scenes=TWO, audio_params=nulls) == spec_for(scenes=TWO)


def test_settings_are_defaults_that_the_request_overrides() -> None:
    """AUDIO_SYNC_MODE and the others apply to missing fields."""
    defaults = DefaultSettings(
        sync_mode=SyncMode.STRETCH, error_strategy=ErrorStrategy.HALT, fail_on_error=True
    )
    params = spec_for(defaults, scenes=TWO, audio_params={"sync_mode": "compress"}).params

    assert params.sync_mode is SyncMode.COMPRESS
    assert params.error_strategy is ErrorStrategy.HALT
    assert params.fail_on_error


def test_the_cost_limit_of_the_settings_applies_unless_the_request_has_one() -> None:
    """AUDIO_MAX_COST and AUDIO_ON_MAX_COST; null does not remove the limit."""
    defaults = DefaultSettings(max_cost=0.5, on_max_cost=OnMaxCost.ERROR_STRATEGY)
    default = spec_for(defaults, scenes=TWO, audio_params={"max_cost": None}).params
    requested = spec_for(
        defaults, scenes=TWO, audio_params={"max_cost": 2, "on_max_cost": "refuse"}
    )

    assert (default.max_cost, default.on_max_cost) == (0.5, "error_strategy")
    assert (requested.params.max_cost, requested.params.on_max_cost) == (2, "refuse")


@pytest.mark.parametrize(
    ("value", "url", "key"),
    [
        ("https://x.example/a.mp3", "https://x.example/a.mp3", None),
        ({"url": "https://x.example/a.mp3", "object": None}, "https://x.example/a.mp3", None),
        ({"object": "styles/x"}, None, "styles/x"),
    ],
)
def test_a_style_sample_is_an_object_or_a_url(value: Any, url: str | None, key: str | None) -> None:
    """As `{url}`, as `{object}`, or as the URL alone."""
    style = spec_for(scenes=TWO, audio_params={"style_audio": value}).params.style_audio

    assert style == AudioRef(url=url, object=key)


@pytest.mark.parametrize("value", [{}, {"url": "https://x.example/a", "object": "styles/x"}])
def test_a_style_sample_has_exactly_one_reference(value: dict[str, str]) -> None:
    """The error names the field."""
    ((field, message),) = problems_for(scenes=TWO, audio_params={"style_audio": value})

    assert field == "audio_params.style_audio"
    assert "either" in message


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
def test_an_invalid_parameter_is_named(name: str, value: Any) -> None:
    """Each problem has the path of its field."""
    with pytest.raises(ValidationError) as caught:
        a_body(scenes=TWO, audio_params={name: value})

    fields = [field for field, _ in body_problems(caught.value)]
    assert fields
    assert all(field.startswith(f"audio_params.{name}") for field in fields)


def test_a_new_parameter_does_not_change_the_digest_of_running_requests() -> None:
    """Otherwise a repeated request after an upgrade would start and pay for a second run."""
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
    first_digest = digest_of({"scenes": scenes, "video": None, "params": first_release})

    assert spec_for(scenes=TWO).digest() == first_digest
    for params in ({"max_cost": 1}, {"use_cache": False}, {"style_audio": "https://x.example/a"}):
        assert spec_for(scenes=TWO, audio_params=params).digest() != first_digest


def test_a_new_field_does_not_change_the_digest_of_a_replayed_video_stitched() -> None:
    """Otherwise a replay after an upgrade would start and pay for a second run."""
    event = VideoStitched.model_validate_json(
        '{"job_id":"1","scenes":[{"duration_s":1}],"video":{"url":"https://x.example/v"}}'
    )
    scene = {"description": "", "duration_s": 1.0, "prompt": None, "mood": None}
    first_release = {
        "job_id": "1",
        "video": {"url": "https://x.example/v", "object": None},
        "scenes": [{**scene, "start_s": None, "end_s": None}],
        "audio_params": {},
    }

    assert stitched_digest(event) == digest_of(first_release)


def test_the_body_of_a_scene_has_the_fields_of_the_contract() -> None:
    """A field of `Scene` (shared/contract/params.py) is accepted by `SceneBody`, and no other."""
    assert SceneBody.model_fields.keys() == Scene.model_fields.keys()


def test_the_setting_to_merge_applies_only_to_jobs_with_a_video() -> None:
    """AUDIO_MERGE_WITH_VIDEO does not reject a job without a video."""
    defaults = DefaultSettings(merge_with_video=True)

    assert not spec_for(defaults, scenes=TWO).params.merge_with_video
    assert spec_for(defaults, scenes=TWO, video="https://x.example/v.mp4").params.merge_with_video


def test_merge_with_video_without_a_video_is_rejected() -> None:
    """The error names the field and what to send."""
    [(field, message)] = problems_for(scenes=TWO, audio_params={"merge_with_video": True})

    assert field == "video"
    assert 'send "video"' in message


def test_a_video_is_a_url_or_an_object() -> None:
    """A plain string is a URL; none and both are rejected."""
    url = "https://x.example/v.mp4"

    assert spec_for(scenes=TWO, video=url) == spec_for(scenes=TWO, video={"url": url})
    assert problems_for(scenes=TWO, video={})[0][0] == "video"
    assert problems_for(scenes=TWO, video={"url": url, "object": "uploads/a"})[0][0] == "video"


def test_the_duration_is_the_exact_difference_of_end_and_start() -> None:
    """3.4 - 1.7 is 1.7, without a binary rounding error."""
    scenes = [{"start_s": 0, "end_s": 1.7}, {"start_s": 1.7, "end_s": 3.4}]

    assert [scene.duration_s for scene in spec_for(scenes=scenes).scenes] == [1.7, 1.7]


@pytest.mark.parametrize(
    ("scenes", "field", "text"),
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
def test_invalid_scenes_are_rejected_by_field(
    scenes: list[dict[str, Any]], field: str, text: str
) -> None:
    """The error names the field and what to change."""
    [(path, message)] = problems_for(scenes=scenes)

    assert path == field
    assert text in message


def test_a_job_without_scenes_is_rejected() -> None:
    """Neither the request nor the job has scenes."""
    assert problems_for()[0][0] == "scenes"


def test_equal_requests_have_equal_digests() -> None:
    """Whether times are spans or lengths, and defaults are given or missing."""
    spans = [{"start_s": 0, "end_s": 1.7}, {"start_s": 1.7, "end_s": 3.7}]

    assert spec_for(scenes=spans).digest() == spec_for(scenes=TWO).digest()
    assert (
        spec_for(scenes=TWO, audio_params={"fade_duration": 1}).digest()
        == spec_for(scenes=TWO).digest()
    )
    assert (
        spec_for(scenes=TWO, audio_params={"prompt": "p"}).digest() != spec_for(scenes=TWO).digest()
    )


def test_the_clients_parameters_override_upstreams() -> None:
    """audio_params of video.stitched are the job's defaults."""
    job = JobSpec(
        scenes=spec_of_body(a_body(scenes=TWO), LIMITS).scenes,
        audio_params={"prompt": "upstream", "fade_duration": 2.0},
    )
    params = AudioParamsBody(prompt="client")
    spec = build_run_spec("123", job=job, params=params, defaults=DEFAULTS)

    assert (spec.params.prompt, spec.params.fade_duration) == ("client", 2.0)


def test_upstreams_content_is_validated_like_a_request() -> None:
    """The error names the field of its parameters."""
    event = VideoStitched(
        job_id="1", scenes=({"duration_s": 1},), audio_params={"sync_mode": "bend"}
    )
    with pytest.raises(RequestInvalidError) as caught:
        spec_of_stitched(event, LIMITS)

    assert caught.value.problems[0][0] == "audio_params.sync_mode"


def test_the_digest_of_video_stitched_ignores_unknown_fields_and_order() -> None:
    """Equal content has an equal digest."""
    first = VideoStitched.model_validate_json('{"job_id":"1","scenes":[{"duration_s":1}]}')
    second = VideoStitched.model_validate_json('{"scenes":[{"x":1,"duration_s":1.0}],"job_id":1}')

    assert stitched_digest(first) == stitched_digest(second)


def test_the_digest_of_video_stitched_differs_for_other_content() -> None:
    """Another scene or video makes another job."""
    short, long = (VideoStitched(job_id="1", scenes=({"duration_s": s},)) for s in (1, 2))

    assert stitched_digest(short) != stitched_digest(long)


def test_video_stitched_is_the_jobs_part_of_a_run() -> None:
    """Its scenes, video and parameters."""
    event = VideoStitched(
        job_id="1",
        scenes=({"duration_s": 1},),
        video={"object": "videos/x"},
        audio_params={"prompt": "p"},
    )

    assert spec_of_stitched(event, LIMITS) == JobSpec(
        scenes=event.scenes, video=event.video, audio_params={"prompt": "p"}
    )


def test_scenes_at_the_limits_are_accepted() -> None:
    """As many as allowed, the longest and the shortest."""
    lengths = (LIMITS.scene_s_max, SCENE_S_MIN, 1)

    assert len(spec_for(scenes=[{"duration_s": s} for s in lengths]).scenes) == LIMITS.scenes_max


def test_a_default_that_came_later_changes_no_digest() -> None:
    """A running run of the release before joins its repeated request, and is not paid again."""
    earlier = spec_for(scenes=TWO)
    unlimited = replace(earlier, params=earlier.params.model_copy(update={"max_cost": None}))
    other = replace(earlier, params=earlier.params.model_copy(update={"max_cost": 5.0}))

    assert earlier.params.max_cost == 10.0
    assert unlimited.digest() == earlier.digest() != other.digest()


def test_the_scenes_of_a_run_have_a_longest_sum() -> None:
    """From HTTP and from upstream; the limit itself is accepted."""
    limits = LimitSettings(run_s_max=4)
    event = VideoStitched(job_id="1", scenes=({"duration_s": 2}, {"duration_s": 2.01}))

    with pytest.raises(RequestInvalidError) as caught:
        spec_of_stitched(event, limits)
    with pytest.raises(RequestInvalidError):
        spec_of_body(a_body(scenes=[{"duration_s": 4.1}]), limits)
    assert spec_of_body(a_body(scenes=[{"duration_s": 2}] * 2), limits).scenes

    reason = "the scenes last 4.01 s, at most 4 s are allowed (SEGUE_RUN_S_MAX): split the video"
    assert caught.value.problems == [("scenes", reason)]
