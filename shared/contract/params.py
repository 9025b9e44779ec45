"""Values inside events and requests: scenes, media references and audio parameters.

The events (`shared/contract/events.py`) and the api's request bodies are built from them. Readers
ignore unknown fields.

Units: seconds, as decimals. Pure.
"""

from decimal import Decimal, DecimalException
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.contract.validation import closest_name

SECONDS_MAX = 86_400  # one day; no stitched video is longer

Seconds = Annotated[float, Field(allow_inf_nan=False)]
Duration = Annotated[Seconds, Field(gt=0, le=SECONDS_MAX)]
COST_USD_MAX = 1_000_000
CostUsd = Annotated[float, Field(ge=0, le=COST_USD_MAX, allow_inf_nan=False)]


class SyncMode(StrEnum):
    """How the muxer fits the track to the video."""

    TRIM = "trim"  #: cut the track or pad it with silence; the video is never cut
    STRETCH = "stretch"  #: time-stretch by any ratio, pitch unchanged
    COMPRESS = "compress"  #: tempo factor 0.5 to 2.0; any other ratio is an error


COMPRESS_TEMPO_MIN, COMPRESS_TEMPO_MAX = 0.5, 2.0  # of `SyncMode.COMPRESS`


class ErrorStrategy(StrEnum):
    """What happens to a run when a scene's music cannot be generated."""

    CONTINUE_WITH_SILENCE = "continue_with_silence"
    HALT = "halt"


class Transition(StrEnum):
    """How the merger joins adjacent segments."""

    AUTO = "auto"  #: splice a continuation, fade everywhere else
    FADE = "fade"  #: fade out and in at every seam


class PromptStyle(StrEnum):
    """How the prompt of a scene without its own prompt is built."""

    CONTRACT = "contract"  #: the template with the scene's mood
    SCENE = "scene"  #: the template with the mood and the scene's own words


class OnMaxCost(StrEnum):
    """What happens to a run that would cost more than `max_cost`."""

    REFUSE = "refuse"  #: reject it if its estimate exceeds the cap
    ERROR_STRATEGY = "error_strategy"  #: start it; scenes over the cap follow `error_strategy`


class Value(BaseModel):
    """Base of all event values: immutable; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def _needs(**types: str) -> dict[str, Any]:
    """Return a JSON schema that requires these fields, not null."""
    return {
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


class MediaRef(Value):
    """Reference to media: a URL, or an object in the store."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_needs(url="string"), _needs(object="string")]}
    )

    url: str | None = Field(default=None, description="http(s) URL.")
    object: str | None = Field(default=None, description="Key of an object in Segue's store.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.object is None):
            raise ValueError('give either "url" or "object"')
        return self


class VideoRef(MediaRef):
    """Reference to the stitched video: a URL, or an object in the store."""


class AudioRef(MediaRef):
    """Reference to audio: a URL, or an object in the store."""


class AudioParams(Value):
    """Audio parameters of a run, with the contract's defaults."""

    fade_duration: Annotated[Seconds, Field(ge=0, le=30)] = Field(
        default=1.0, description="Seconds of each fade between segments that are not spliced."
    )
    sync_mode: SyncMode = SyncMode.TRIM
    merge_with_video: bool = False
    error_strategy: ErrorStrategy = ErrorStrategy.CONTINUE_WITH_SILENCE
    fail_on_error: bool = Field(
        default=False,
        description="Any failed scene fails the run, so that it can be requested again.",
    )
    prompt: str | None = Field(
        default=None, description="Prompt of every scene that has none of its own."
    )
    prompt_style: PromptStyle = PromptStyle.CONTRACT
    transition: Transition = Transition.AUTO
    style_audio: AudioRef | None = Field(
        default=None,
        description="Music that the first scene continues; it is not part of the track.",
    )
    use_cache: bool = Field(
        default=True, description="false: do not reuse music composed earlier for the same input."
    )
    max_cost: CostUsd | None = Field(
        default=None, description="Cost limit of the run in US dollars; null: no limit."
    )
    on_max_cost: OnMaxCost = OnMaxCost.REFUSE


class Kept(Value):
    """A segment that this run takes unchanged from an earlier run of the job."""

    run: int = Field(ge=1, description="The run whose segment is taken.")
    bridged: bool = Field(
        default=False,
        description="The preceding scene was generated again, so the two need a bridge.",
    )
    track: bool = Field(default=False, description="The track of that run is taken as well.")


def _with_duration(value: Any) -> Any:
    """Compute `duration_s` from `start_s` and `end_s` if it is missing."""
    if not isinstance(value, dict) or value.get("duration_s") is not None:
        return value
    start, end = value.get("start_s"), value.get("end_s")
    if start is None or end is None:
        raise ValueError("give duration_s, or both start_s and end_s" + _misspelt(value))
    try:
        length = float(Decimal(str(end)) - Decimal(str(start)))  # exact: 3.4 - 1.7 is 1.7
    except (DecimalException, ValueError) as error:
        raise ValueError("start_s and end_s must be numbers of seconds") from error
    return {**value, "duration_s": length}


def _misspelt(scene: dict[str, Any]) -> str:
    """Return which unknown field of a scene without a length may be its length."""
    for name in scene.keys() - Scene.model_fields.keys():
        closest = closest_name(str(name), ("duration_s", "start_s", "end_s"))
        if closest is not None and scene.get(closest) is None:
            return f'; "{name}" is unknown: use {closest}'
    return ""


def _either_length(schema: dict[str, Any]) -> None:
    schema.pop("required")
    schema["anyOf"] = [_needs(duration_s="number"), _needs(start_s="number", end_s="number")]
    schema["properties"]["duration_s"]["description"] = "Seconds; or give start_s and end_s."


class SceneSpec(Value):
    """What the music of one scene is composed from.

    Events, database rows and redrives derive their fields from here. Only the HTTP body lists
    them again (`SceneBody`, strictly typed); a test compares the two.
    """

    description: str = Field(default="", description="What the scene shows; sets the mood.")
    duration_s: Duration = Field(description="Seconds.")
    prompt: str | None = Field(default=None, description="Overrides the prompt of the run.")
    mood: str | None = Field(default=None, description="Overrides the description.")


class Scene(SceneSpec):
    """A span of the video and its description, as upstream and clients send it."""

    model_config = ConfigDict(json_schema_extra=_either_length)

    start_s: Annotated[Seconds, Field(ge=0, le=SECONDS_MAX)] | None = None
    end_s: Annotated[Seconds, Field(ge=0, le=SECONDS_MAX)] | None = None

    _duration = model_validator(mode="before")(_with_duration)

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.start_s is None or self.end_s is None:
            return self
        if abs((self.end_s - self.start_s) - self.duration_s) > 1e-6:  # noqa: PLR2004 - a microsecond
            raise ValueError(
                f"duration_s is {self.duration_s}, but end_s - start_s is "
                f"{round(self.end_s - self.start_s, 6)}"
            )
        return self
