"""Brief: what is asked of the music: the scenes, the video, and how it should be made.

Values that travel inside events and requests; `shared/contract/events.py` and the api's bodies are
made of them. Readers ignore what they do not know.

Units: seconds are decimals as people write them. Pure.
"""

from decimal import Decimal, DecimalException
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SECONDS_MAX = 86_400  # a day: nothing that is stitched is longer

Seconds = Annotated[float, Field(allow_inf_nan=False)]
Duration = Annotated[Seconds, Field(gt=0, le=SECONDS_MAX)]
COST_USD_MAX = 1_000_000
CostUsd = Annotated[float, Field(ge=0, le=COST_USD_MAX, allow_inf_nan=False)]


class SyncMode(StrEnum):
    """How the track is fitted to the picture."""

    TRIM = "trim"  #: cut, or padded with silence: the picture is never cut
    STRETCH = "stretch"  #: any ratio, pitch kept
    COMPRESS = "compress"  #: tempo 0.5 to 2.0, an error outside


class ErrorStrategy(StrEnum):
    """What becomes of a run when a scene's music cannot be made."""

    CONTINUE_WITH_SILENCE = "continue_with_silence"
    HALT = "halt"


class Transition(StrEnum):
    """How neighbouring segments are joined."""

    AUTO = "auto"  #: splice a true continuation, fade where there is none
    FADE = "fade"  #: fade out, fade in, everywhere


class OnMaxCost(StrEnum):
    """What becomes of a run that would cost more than `max_cost`."""

    REFUSE = "refuse"  #: it does not begin, if the estimate says so beforehand
    ERROR_STRATEGY = "error_strategy"  #: it begins; what cannot be paid any more follows that


class Value(BaseModel):
    """A part of an event: frozen, tolerant when read."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def _needs(**types: str) -> dict[str, Any]:
    """In JSON schema: these fields are there, and not null."""
    return {
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


class MediaRef(Value):
    """Where something to see or hear lies: a URL, or an object in the store."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_needs(url="string"), _needs(object="string")]}
    )

    url: str | None = Field(default=None, description="http(s) URL.")
    object: str | None = Field(default=None, description="Key of an object in Segue's store.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.object is None):
            raise ValueError('name either "url" or "object"')
        return self


class VideoRef(MediaRef):
    """Where the stitched video lies: a URL, or an object in the store."""


class AudioRef(MediaRef):
    """Where a piece of audio lies: a URL, or an object in the store."""


class AudioParams(Value):
    """What may be asked of the music; the defaults are the contract's."""

    fade_duration: Annotated[Seconds, Field(ge=0, le=30)] = Field(
        default=1.0, description="Seconds of each fade where segments are not spliced."
    )
    sync_mode: SyncMode = SyncMode.TRIM
    merge_with_video: bool = False
    error_strategy: ErrorStrategy = ErrorStrategy.CONTINUE_WITH_SILENCE
    fail_on_error: bool = Field(
        default=False, description="Any failed scene fails the job, so that it can be asked again."
    )
    prompt: str | None = Field(default=None, description="Wins over the scenes' descriptions.")
    transition: Transition = Transition.AUTO
    style_audio: AudioRef | None = Field(
        default=None, description="Music that the first scene continues; it is not heard itself."
    )
    use_cache: bool = Field(
        default=True, description="False: compose anew what was composed before."
    )
    max_cost: CostUsd | None = Field(
        default=None, description="US dollars that the run may spend; null: no limit."
    )
    on_max_cost: OnMaxCost = OnMaxCost.REFUSE


class Kept(Value):
    """What an earlier run of the job made, and this run takes as it is."""

    run: int = Field(ge=1, description="The run that made it, or kept it before.")
    bridged: bool = Field(
        default=False, description="The music before it was made anew: its window repeats another."
    )
    track: bool = Field(default=False, description="So is the whole track of that run.")


def _with_duration(value: Any) -> Any:
    """Turn `start_s`/`end_s` into `duration_s`, saying what is missing."""
    if not isinstance(value, dict) or value.get("duration_s") is not None:
        return value
    start, end = value.get("start_s"), value.get("end_s")
    if start is None or end is None:
        raise ValueError("give duration_s, or both start_s and end_s")
    try:
        length = float(Decimal(str(end)) - Decimal(str(start)))  # 3.4 - 1.7 is 1.7
    except (DecimalException, ValueError) as error:
        raise ValueError("start_s and end_s must be numbers of seconds") from error
    return {**value, "duration_s": length}


def _either_length(schema: dict[str, Any]) -> None:
    schema.pop("required")
    schema["anyOf"] = [_needs(duration_s="number"), _needs(start_s="number", end_s="number")]


class Scene(Value):
    """A span of the video and what it shows, as upstream describes it."""

    model_config = ConfigDict(json_schema_extra=_either_length)

    description: str = Field(default="", description="What is seen; the prompt is made from it.")
    duration_s: Duration = Field(description="Seconds; or give start_s and end_s.")
    start_s: Annotated[Seconds, Field(ge=0, le=SECONDS_MAX)] | None = None
    end_s: Annotated[Seconds, Field(ge=0, le=SECONDS_MAX)] | None = None
    prompt: str | None = Field(default=None, description="Wins over everything.")
    mood: str | None = Field(default=None, description="Wins over the description.")

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
