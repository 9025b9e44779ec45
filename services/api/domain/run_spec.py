"""Asking: from what a client or upstream says to what a run really is.

A body says little and leaves the rest to the job, the settings and the contract's defaults;
here that becomes one `RunSpec`, checked against the limits. Two requests are the same when their
`RunSpec` is.

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
from services.api.http.schemas import (
    MEDIA_TAGS,
    AudioParamsBody,
    GenerateBody,
    SceneBody,
    VideoBody,
)
from services.api.settings import DefaultSettings, LimitSettings
from shared.contract.events import VideoStitched
from shared.contract.params import AudioParams, AudioRef, Kept, Scene, VideoRef
from shared.errors import SegueError

FieldProblems = list[tuple[str, str]]  #: field, what is wrong with it
_ONE_OF_BOTH = 'give either "url" or "object"'
#: Not part of a digest while they say nothing: a request under way keeps its digest when the api
#: is replaced by one that knows more.
_LATER_PARAMS = frozenset({"style_audio", "use_cache", "max_cost", "on_max_cost"})


class RequestInvalidError(SegueError):
    """What was asked cannot be done as it was asked; names the fields and the ways out."""

    def __init__(self, problems: FieldProblems) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What is known of a job beside its runs; None: nobody said."""

    scenes: tuple[Scene, ...] | None = None
    video: VideoRef | None = None
    audio_params: Mapping[str, Any] | None = None  #: as `video.stitched` brought them

    def over(self, older: "JobSpec") -> "JobSpec":
        """What is said here, and what `older` said where this says nothing."""
        return JobSpec(
            scenes=self.scenes if self.scenes is not None else older.scenes,
            video=self.video or older.video,
            audio_params=(
                self.audio_params if self.audio_params is not None else older.audio_params
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run, complete: nothing is left to a default any more."""

    job_id: str
    scenes: tuple[Scene, ...]
    video: VideoRef | None
    params: AudioParams
    kept: Mapping[int, Kept] = field(default_factory=dict)  #: scenes that earlier runs made
    anew: frozenset[int] = frozenset()  #: scenes that the cache must not answer

    @property
    def to_generate(self) -> tuple[int, ...]:
        """The scenes that are made in this run."""
        return tuple(index for index in range(len(self.scenes)) if index not in self.kept)

    def digest(self) -> str:
        """Equal for equal requests; what a run keeps is nothing that was asked of the music."""
        plain = AudioParams()
        silent = {p for p in _LATER_PARAMS if getattr(self.params, p) == getattr(plain, p)}
        said = {
            "scenes": [
                scene.model_dump(mode="json", exclude={"start_s", "end_s"}) for scene in self.scenes
            ],
            "video": self.video.model_dump(mode="json") if self.video else None,
            "params": self.params.model_dump(mode="json", exclude=silent),
        }
        return digest_of(said)


def digest_of(value: Any) -> str:
    """SHA-256 of `value` as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def spec_of_body(body: GenerateBody, limits: LimitSettings) -> JobSpec:
    """What `body` says about the job.

    Raises:
        RequestInvalidError: scenes or video cannot be used.
    """
    return JobSpec(
        scenes=None if body.scenes is None else _scenes(body.scenes, limits),
        video=_video(body.video),
    )


def spec_of_stitched(event: VideoStitched, limits: LimitSettings) -> JobSpec:
    """What upstream says about the job.

    Raises:
        RequestInvalidError: scenes or parameters cannot be used.
    """
    _check_scenes(event.scenes, limits)
    params_of(event.audio_params)
    return JobSpec(scenes=event.scenes, video=event.video, audio_params=event.audio_params)


def stitched_digest(event: VideoStitched) -> str:
    """Equal for equal content, however often upstream says it."""
    return digest_of(event.model_dump(mode="json"))


def params_of(said: Mapping[str, Any]) -> AudioParamsBody:
    """Upstream's parameters, checked as a client's are.

    Raises:
        RequestInvalidError: a field is wrong.
    """
    try:
        return AudioParamsBody.model_validate_json(json.dumps(said))
    except ValidationError as error:
        raise RequestInvalidError(problems_of(error, prefix="audio_params")) from error


def build_run_spec(
    job_id: str, *, job: JobSpec, params: AudioParamsBody | None, defaults: DefaultSettings
) -> RunSpec:
    """The run that `job` and `params` ask for.

    Raises:
        RequestInvalidError: no scenes, a video is asked for and there is none, or the style
            sample is named twice or not at all.
    """
    if not job.scenes:
        raise RequestInvalidError(
            [("scenes", f"job {job_id} has no scenes: send them in this request")]
        )
    said = _layered(params, params_of(job.audio_params or {}))
    wants_video = said.pop("merge_with_video", None)
    if wants_video and job.video is None:
        raise RequestInvalidError(
            [("video", 'audio_params.merge_with_video needs one: send "video", or leave it out')]
        )
    if wants_video is None:  # the setting is a wish: without a video there is nothing to mux
        wants_video = defaults.merge_with_video and job.video is not None
    if (style := said.pop("style_audio", None)) is not None:
        said["style_audio"] = _style(style)
    return RunSpec(
        job_id=job_id,
        scenes=job.scenes,
        video=job.video,
        params=AudioParams(
            **{
                "sync_mode": defaults.sync_mode,
                "error_strategy": defaults.error_strategy,
                "fail_on_error": defaults.fail_on_error,
                "max_cost": defaults.max_cost,
                "on_max_cost": defaults.on_max_cost,
                **said,
                "merge_with_video": wants_video,
            }
        ),
    )


def _layered(*bodies: AudioParamsBody | None) -> dict[str, Any]:
    """What the bodies say; the first that says a field wins, null says nothing."""
    said: dict[str, Any] = {}
    for body in bodies:
        given = body.model_dump(exclude_none=True) if body else {}
        said = {**given, **said}
    return said


def _video(said: VideoBody | str | None) -> VideoRef | None:
    if said is None:
        return None
    body = VideoBody(url=said) if isinstance(said, str) else said
    if (body.url is None) == (body.object is None):
        raise RequestInvalidError([("video", _ONE_OF_BOTH)])
    return VideoRef(url=body.url, object=body.object)


def _style(said: Mapping[str, str] | str) -> AudioRef:
    named = {"url": said} if isinstance(said, str) else said
    if len(named) != 1:
        raise RequestInvalidError([("audio_params.style_audio", _ONE_OF_BOTH)])
    return AudioRef(**named)


def _scenes(said: Sequence[SceneBody], limits: LimitSettings) -> tuple[Scene, ...]:
    if not said:
        raise RequestInvalidError([("scenes", "is empty: a job has at least one scene")])
    _check_count(len(said), limits)  # before a problem per scene is told
    problems: FieldProblems = []
    scenes: list[Scene] = []
    for index, body in enumerate(said):
        try:
            scenes.append(Scene(**body.model_dump(exclude_none=True)))
        except ValidationError as error:
            problems += problems_of(error, prefix=f"scenes[{index}]")
    if problems:
        raise RequestInvalidError(problems)
    _check_scenes(scenes, limits)
    return tuple(scenes)


def _check_count(count: int, limits: LimitSettings) -> None:
    if count > limits.scenes_max:
        told = f"has {count} scenes, at most {limits.scenes_max} are allowed (SEGUE_SCENES_MAX)"
        raise RequestInvalidError([("scenes", told)])


def _check_scenes(scenes: Sequence[Scene], limits: LimitSettings) -> None:
    """Whether the scenes keep the limits and, where they say when, follow one another."""
    _check_count(len(scenes), limits)
    problems: FieldProblems = []
    at = Decimal(0)
    for index, scene in enumerate(scenes):
        field = f"scenes[{index}].duration_s"
        if scene.duration_s > limits.scene_s_max:
            told = f"is {scene.duration_s} s, at most {limits.scene_s_max} s are allowed"
            problems.append((field, f"{told}: split the scene"))
        if scene.duration_s < SCENE_S_MIN:
            told = f"is {scene.duration_s} s, at least {SCENE_S_MIN} s are needed"
            problems.append((field, f"{told}: leave the scene out"))
        if scene.start_s is not None and Decimal(str(scene.start_s)) != at:
            problems.append((f"scenes[{index}].start_s", _gap(scene.start_s, at, index)))
            at = Decimal(str(scene.start_s))
        at += Decimal(str(scene.duration_s))
    if problems:
        raise RequestInvalidError(problems)


def _gap(start_s: float, at: Decimal, index: int) -> str:
    start = Decimal(str(start_s))
    apart = _plain(abs(start - at))
    what = f"leaves a gap of {apart} s" if start > at else f"overlaps by {apart} s"
    before = f"scenes[{index - 1}] ends at {_plain(at)} s" if index else "the first starts at 0 s"
    return f"is {_plain(start)} s and {what}: {before}"


def _plain(seconds: Decimal) -> str:
    return f"{seconds.normalize():f}"


def problems_of(error: ValidationError, *, prefix: str = "") -> FieldProblems:
    """Pydantic's findings as fields and messages."""
    return [
        (path_of(found["loc"], prefix=prefix), _told(found["msg"]))
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def path_of(loc: Sequence[int | str], *, prefix: str = "") -> str:
    """`("scenes", 2, "duration_s")` as people write it: `scenes[2].duration_s`."""
    told = [part for part in loc if part not in MEDIA_TAGS]
    names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in told]
    return (prefix + "".join(names)).lstrip(".") or "body"


def _told(message: str) -> str:
    return message.removeprefix("Value error, ")
