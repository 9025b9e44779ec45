"""Builds a complete run specification from a request, a job and the defaults.

A request may leave fields to the job, the settings and the contract's defaults. `RunSpec` has
all of them, checked against the limits. Two requests are the same if their `RunSpec` has the
same digest.

Pure.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from services.api.domain.request_fields import SCENE_S_MIN
from services.api.domain.request_models import (
    MEDIA_TAGS,
    AudioParamsBody,
    GenerateBody,
    SceneBody,
    VideoBody,
    field_message,
    parse_body,
)
from services.api.settings import DefaultSettings, LimitSettings
from shared.contract.events import SceneRequested, VideoStitched
from shared.contract.params import AudioParams, AudioRef, Kept, Scene, SceneSpec, Value, VideoRef
from shared.contract.prompt import prompt_for
from shared.contract.validation import FieldProblems, field_problems
from shared.cost_estimate import MAX_COST_USD
from shared.errors import SegueError

NOT_MUXED = (
    "only the track is made, the video is left without it: set audio_params.merge_with_video "
    "to true to get the video with its music"
)
_EITHER = 'give either "url" or "object"'
#: Fields of the first release, which are always part of a digest. A later field is part of it
#: only if it differs from its default: an upgrade that adds a field changes no digest, so a
#: repeated request joins its run and a replayed `video.stitched` starts no other.
_FIRST_FIELDS: Mapping[type[Value], frozenset[str]] = {
    SceneSpec: frozenset({"description", "duration_s", "prompt", "mood"}),
    Scene: frozenset({"description", "duration_s", "prompt", "mood", "start_s", "end_s"}),
    VideoRef: frozenset({"url", "object"}),
    VideoStitched: frozenset({"job_id", "video", "scenes", "audio_params"}),
    AudioParams: frozenset(
        {
            "fade_duration",
            "sync_mode",
            "merge_with_video",
            "error_strategy",
            "fail_on_error",
            "prompt",
            "transition",
        }
    ),
}
#: Defaults of settings that came later: a running run of an earlier release has the same digest.
_LATER_DEFAULTS: Mapping[str, Any] = {"max_cost": MAX_COST_USD}


class RequestInvalidError(SegueError):
    """The request is invalid; names the fields and what to change."""

    def __init__(self, problems: FieldProblems) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a job stores apart from its runs; None: not given."""

    scenes: tuple[Scene, ...] | None = None
    video: VideoRef | None = None
    audio_params: Mapping[str, Any] | None = None  #: from `video.stitched`

    def over(self, older: "JobSpec") -> "JobSpec":
        """Return this with missing fields taken from `older`."""
        return JobSpec(
            scenes=self.scenes if self.scenes is not None else older.scenes,
            video=self.video or older.video,
            audio_params=(
                self.audio_params if self.audio_params is not None else older.audio_params
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A complete run: every parameter has its value."""

    job_id: str
    scenes: tuple[Scene, ...]
    video: VideoRef | None
    params: AudioParams
    kept: Mapping[int, Kept] = field(default_factory=dict)  #: scenes taken from earlier runs
    skip_cache: frozenset[int] = frozenset()  #: scenes to generate without the cache
    provider: str | None = None  #: not part of the digest; None: the api's own

    @property
    def to_generate(self) -> tuple[int, ...]:
        """The scenes that this run generates."""
        return tuple(index for index in range(len(self.scenes)) if index not in self.kept)

    @property
    def object_keys(self) -> frozenset[str]:
        """The objects that the client named."""
        named = (self.video, self.params.style_audio)
        return frozenset(ref.object for ref in named if ref is not None and ref.object is not None)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each scene, in order."""
        return tuple(
            prompt_for(
                description=scene.description,
                mood=scene.mood,
                scene_prompt=scene.prompt,
                run_prompt=self.params.prompt,
                style=self.params.prompt_style,
            )
            for scene in self.scenes
        )

    def digest(self) -> str:
        """Return a digest that is equal for equal requests, whatever the run keeps."""
        return digest_of(
            {
                "scenes": [_content(scene, of=SceneSpec) for scene in self.scenes],
                "video": _content(self.video, of=VideoRef) if self.video else None,
                "params": _content(self.params, of=AudioParams),
            }
        )

    def requests(self, run: int) -> list[SceneRequested]:
        """Return one `scene.requested` per scene, in order."""
        return [
            SceneRequested.of(
                scene,
                job_id=self.job_id,
                run=run,
                scene_index=index,
                scene_count=len(self.scenes),
                params=self.params,
                video=self.video,
                kept=self.kept.get(index),
                skip_cache=index in self.skip_cache,
                provider=self.provider,
            )
            for index, scene in enumerate(self.scenes)
        ]


def digest_of(value: Any) -> str:
    """Return the SHA-256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _content(value: Value, *, of: type[Value]) -> dict[str, Any]:
    """Return the fields of `of` in `value`, without later ones at their default."""
    fields = {
        name
        for name, field in of.model_fields.items()
        if name in _FIRST_FIELDS[of]
        or getattr(value, name)
        not in (field.get_default(call_default_factory=True), _LATER_DEFAULTS.get(name))
    }
    return value.model_dump(mode="json", include=fields)


def spec_of_body(body: GenerateBody, limits: LimitSettings) -> JobSpec:
    """Return the job's part of a request body.

    Raises:
        RequestInvalidError: the scenes or the video are invalid.
    """
    return JobSpec(
        scenes=None if body.scenes is None else _scenes(body.scenes, limits),
        video=_video(body.video),
    )


def spec_of_stitched(event: VideoStitched, limits: LimitSettings) -> JobSpec:
    """Return the job's part of a `video.stitched` event.

    Raises:
        RequestInvalidError: the scenes or the parameters are invalid.
    """
    _check_scenes(event.scenes, limits)
    params_of(event.audio_params)
    return JobSpec(scenes=event.scenes, video=event.video, audio_params=event.audio_params)


def stitched_digest(event: VideoStitched) -> str:
    """Return a digest that is equal for equal content of `video.stitched`."""
    content = _content(event, of=VideoStitched)
    content["scenes"] = [_content(scene, of=Scene) for scene in event.scenes]
    content["video"] = _content(event.video, of=VideoRef) if event.video else None
    return digest_of(content)


def params_of(values: Mapping[str, Any]) -> AudioParamsBody:
    """Return upstream's parameters, validated as a client's are; unknown fields are ignored.

    Raises:
        RequestInvalidError: a field is invalid.
    """
    try:
        return AudioParamsBody.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RequestInvalidError(body_problems(error, prefix="audio_params")) from error


def check_known_params(values: Mapping[str, Any]) -> None:
    """Raise if upstream's parameters have an unknown field: a new request must not be misread.

    Raises:
        RequestInvalidError: names the closest field.
    """
    try:
        parse_body(AudioParamsBody, json.dumps(values))
    except ValidationError as error:
        raise RequestInvalidError(body_problems(error, prefix="audio_params")) from error


def body_problems(error: ValidationError, *, prefix: str = "") -> FieldProblems:
    """Return the invalid fields of a request body."""
    return field_problems(
        error,
        prefix=prefix,
        skip=MEDIA_TAGS,
        root="body",
        message_of=lambda problem: field_message(problem, root=error.title),
    )


def video_warnings(video: VideoRef | None, params: AudioParams | None) -> list[str]:
    """Return a warning if a run has a video and makes only the track."""
    if video is None or params is None or params.merge_with_video:
        return []
    return [NOT_MUXED]


def build_run_spec(
    job_id: str, *, job: JobSpec, params: AudioParamsBody | None, defaults: DefaultSettings
) -> RunSpec:
    """Return the run that `job` and `params` request.

    Raises:
        RequestInvalidError: there are no scenes, a video is required and missing, or the style
            sample has no reference or two.
    """
    if not job.scenes:
        raise RequestInvalidError(
            [("scenes", f"job {job_id} has no scenes: send them in this request")]
        )
    given = _first_given(params, params_of(job.audio_params or {}))
    merge_with_video = given.pop("merge_with_video", None)
    if merge_with_video and job.video is None:
        raise RequestInvalidError(
            [("video", 'audio_params.merge_with_video requires a video: send "video"')]
        )
    if merge_with_video is None:  # the setting applies only to jobs with a video
        merge_with_video = defaults.merge_with_video and job.video is not None
    if (style := given.pop("style_audio", None)) is not None:
        given["style_audio"] = _style(style)
    return RunSpec(
        job_id=job_id,
        scenes=job.scenes,
        video=job.video,
        params=AudioParams(
            **{
                "sync_mode": defaults.sync_mode,
                "error_strategy": defaults.error_strategy,
                "fail_on_error": defaults.fail_on_error,
                "prompt_style": defaults.prompt_style,
                "max_cost": defaults.max_cost,
                "on_max_cost": defaults.on_max_cost,
                **given,
                "merge_with_video": merge_with_video,
            }
        ),
    )


def _first_given(*bodies: AudioParamsBody | None) -> dict[str, Any]:
    """Return each field from the first body in which it is not null."""
    fields: dict[str, Any] = {}
    for body in bodies:
        fields = {**(body.model_dump(exclude_none=True) if body else {}), **fields}
    return fields


def _video(video: VideoBody | str | None) -> VideoRef | None:
    if video is None:
        return None
    body = VideoBody(url=video) if isinstance(video, str) else video
    if (body.url is None) == (body.object is None):
        raise RequestInvalidError([("video", _EITHER)])
    return VideoRef(url=body.url, object=body.object)


def _style(style: Mapping[str, str] | str) -> AudioRef:
    reference = {"url": style} if isinstance(style, str) else style
    if len(reference) != 1:
        raise RequestInvalidError([("audio_params.style_audio", _EITHER)])
    return AudioRef(**reference)


def _scenes(bodies: Sequence[SceneBody], limits: LimitSettings) -> tuple[Scene, ...]:
    if not bodies:
        raise RequestInvalidError([("scenes", "is empty: a job needs at least one scene")])
    _check_count(len(bodies), limits)  # before every scene is validated
    problems: FieldProblems = []
    scenes: list[Scene] = []
    for index, body in enumerate(bodies):
        try:
            scenes.append(Scene(**body.model_dump(exclude_none=True)))
        except ValidationError as error:
            problems += body_problems(error, prefix=f"scenes[{index}]")
    if problems:
        raise RequestInvalidError(problems)
    _check_scenes(scenes, limits)
    return tuple(scenes)


def _check_count(count: int, limits: LimitSettings) -> None:
    if count > limits.scenes_max:
        message = f"has {count} scenes, at most {limits.scenes_max} are allowed (SEGUE_SCENES_MAX)"
        raise RequestInvalidError([("scenes", message)])


def _check_scenes(scenes: Sequence[Scene], limits: LimitSettings) -> None:
    """Raise if a scene is too long or too short, or its start is not the end of the one before."""
    _check_count(len(scenes), limits)
    problems: FieldProblems = []
    at = Decimal(0)
    for index, scene in enumerate(scenes):
        field = f"scenes[{index}].duration_s"
        if scene.duration_s > limits.scene_s_max:
            message = f"is {scene.duration_s} s, at most {limits.scene_s_max} s are allowed"
            problems.append((field, f"{message}: split the scene"))
        if scene.duration_s < SCENE_S_MIN:
            message = f"is {scene.duration_s} s, at least {SCENE_S_MIN} s are required"
            problems.append((field, f"{message}: remove the scene"))
        if scene.start_s is not None and Decimal(str(scene.start_s)) != at:
            problems.append((f"scenes[{index}].start_s", _gap(scene.start_s, at, index)))
            at = Decimal(str(scene.start_s))
        at += Decimal(str(scene.duration_s))
    if not problems and (exceeded := limits.exceeded_by(run_s=float(at))):
        problems.append(("scenes", exceeded))
    if problems:
        raise RequestInvalidError(problems)


def _gap(start_s: float, at: Decimal, index: int) -> str:
    start = Decimal(str(start_s))
    distance = _plain(abs(start - at))
    what = f"leaves a gap of {distance} s" if start > at else f"overlaps by {distance} s"
    before = f"scenes[{index - 1}] ends at {_plain(at)} s" if index else "the first starts at 0 s"
    return f"is {_plain(start)} s and {what}: {before}"


def _plain(seconds: Decimal) -> str:
    return f"{seconds.normalize():f}"
