"""Request bodies of the api: videos, style samples, scenes and audio parameters.

Bodies are validated strictly: a quoted number is not a number, and `parse_body` rejects an unknown
field and names the closest one. What is stored already, and responses, may have unknown fields.

Pure.
"""

from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from services.api.domain.request_fields import (
    Duration,
    EndTime,
    JobIdBody,
    ObjectKey,
    Seconds,
    StartTime,
    Text,
    WebUrl,
)
from shared.contract.params import (
    COST_USD_MAX,
    ErrorStrategy,
    OnMaxCost,
    PromptStyle,
    SyncMode,
    Transition,
)
from shared.contract.prompt import Mood
from shared.contract.validation import unknown_field_message

M = TypeVar("M", bound="_Body")
MOODS = ", ".join(mood.name.lower() for mood in Mood)


class _Body(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        json_schema_extra={"additionalProperties": False},
    )


class VideoBody(_Body):
    """Reference to the stitched video: exactly one of the two."""

    url: WebUrl | None = None
    object: ObjectKey | None = Field(
        default=None, description="As returned by POST /api/v3/videos."
    )


class StyleBody(_Body):
    """Reference to a style sample: exactly one of the two."""

    url: WebUrl | None = None
    object: ObjectKey | None = Field(
        default=None, description="As returned by POST /api/v3/audio/styles."
    )


#: Discriminator tags of the two ways to reference media; they never appear in a field path.
MEDIA_TAGS = frozenset({"by-reference", "by-address"})
_BY_KIND = Discriminator(lambda value: "by-address" if isinstance(value, str) else "by-reference")
Video = Annotated[
    Annotated[VideoBody, Tag("by-reference")] | Annotated[WebUrl, Tag("by-address")], _BY_KIND
]
Style = Annotated[
    Annotated[StyleBody, Tag("by-reference")] | Annotated[WebUrl, Tag("by-address")], _BY_KIND
]


class SceneBody(_Body):
    """A span of the video: `duration_s`, or `start_s` and `end_s`."""

    description: Text = Field(default="", description="What the scene shows; sets the mood.")
    duration_s: Duration | None = None
    start_s: StartTime | None = None
    end_s: EndTime | None = None
    prompt: Text | None = Field(default=None, description="Overrides the prompt of the run.")
    mood: Text | None = Field(
        default=None,
        description="Overrides the description; free text. Moods with words of their own: "
        f"{MOODS}.",
    )


class AudioParamsBody(_Body):
    """Audio parameters; a missing or null field takes the service's default."""

    fade_duration: Seconds | None = Field(
        default=None, ge=0, le=30, description="Seconds between segments; default 1.0."
    )
    sync_mode: SyncMode | None = Field(default=None, description="Default `trim`.")
    merge_with_video: bool | None = Field(
        default=None, description="Mux the track with the video; default false."
    )
    error_strategy: ErrorStrategy | None = Field(
        default=None, description="Default `continue_with_silence`."
    )
    prompt: Text | None = Field(
        default=None, description="Prompt of every scene that has none of its own."
    )
    prompt_style: PromptStyle | None = Field(
        default=None,
        description="`contract`: the prompt is the template with the scene's mood; `scene`: with "
        "the scene's own words as well. Default AUDIO_PROMPT_STYLE.",
    )
    transition: Transition | None = Field(default=None, description="Default `auto`.")
    style_audio: Style | None = Field(
        default=None,
        description="Music that the first scene continues: `{url}`, `{object}`, or the URL as a "
        "plain string.",
    )
    use_cache: bool | None = Field(
        default=None,
        description="Reuse music composed earlier for the same input; default true.",
    )
    max_cost: float | None = Field(
        default=None,
        ge=0,
        le=COST_USD_MAX,
        allow_inf_nan=False,
        description="Cost limit of the run in US dollars; default AUDIO_MAX_COST.",
    )
    on_max_cost: OnMaxCost | None = Field(
        default=None,
        description="`refuse` (default): reject a run whose estimate exceeds `max_cost`. "
        "`error_strategy`: start it; scenes over the limit follow `error_strategy`.",
    )


class GenerateBody(_Body):
    """Starts the audio of a job; `scenes` create the job or replace its scenes."""

    job_id: JobIdBody
    audio_params: AudioParamsBody | None = None
    scenes: tuple[SceneBody, ...] | None = None
    video: Video | None = Field(
        default=None, description="`{url}`, `{object}`, or the URL as a plain string."
    )


def parse_body(model: type[M], raw: bytes | str) -> M:
    """Return the request body in `raw`.

    Raises:
        ValidationError: it is invalid, or a field is unknown; see `field_message`.
    """
    return model.model_validate_json(raw, extra="forbid")


def field_message(problem: Any, *, root: str) -> str | None:
    """Return the message for an unknown field of the body `root`, or for a mood; None: pydantic's.

    `root` is the title of the validation error: the name of the body's model.
    """
    *path, name = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        model = _model_at(next(body for body in _ROOTS if body.__name__ == root), path)
        return unknown_field_message(str(name), list(model.model_fields))
    if name == "mood" and problem["type"] == "string_type":
        return f"must be text, such as {MOODS}"
    return None


_ROOTS: tuple[type[_Body], ...] = (GenerateBody, SceneBody, AudioParamsBody)


def _model_at(model: type[_Body], path: list[int | str]) -> type[_Body]:
    """Return the model of the object at `path` below a body of `model`."""
    for part in path:
        if part in model.model_fields:
            model = next(iter(_models_in(model.model_fields[str(part)].annotation)), model)
    return model


def _models_in(annotation: Any) -> list[type[_Body]]:
    if isinstance(annotation, type) and issubclass(annotation, _Body):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
