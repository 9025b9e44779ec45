"""Events: every fact that travels between services, and the contract with the outside.

An event is written once and never edited. New fields come with a default; nothing is renamed
or removed (`tests/schemas` holds the golden schemas). Readers ignore what they do not know,
so a newer producer never breaks an older consumer. On the wire: JSON value, key = job id,
CloudEvents 1.0 headers (`shared/kafka/codec.py`).

Units: seconds at this edge are exact decimals as people write them; samples are whole, per
channel, at 48 kHz (`shared/media.py`). Pure.
"""

from decimal import Decimal, DecimalException
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from typing_extensions import override

from shared import ids

JobId = Annotated[
    str,
    BeforeValidator(ids.check_job_id, json_schema_input_type=str | int),
    Field(description="The job; the key of every record. A string or an integer, kept as text."),
]
Run = Annotated[
    int, Field(ge=1, description="The n-th generation of the job; a newer supersedes an older.")
]


Seconds = Annotated[float, Field(allow_inf_nan=False)]
Duration = Annotated[Seconds, Field(gt=0)]


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


class Origin(StrEnum):
    """How a segment was made."""

    CONTINUED = "continued"  #: from the music before it
    FRESH = "fresh"  #: without a window
    CACHED = "cached"  #: the same music was made before
    SILENCE = "silence"  #: the error strategy, or the silence provider


class Stage(StrEnum):
    """Where in the line something happened."""

    INGEST = "ingest"
    GENERATION = "generation"
    MERGE = "merge"
    MUX = "mux"


class _Value(BaseModel):
    """A part of an event: frozen, tolerant when read."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def _needs(**types: str) -> dict[str, Any]:
    """In JSON schema: these fields are there, and not null."""
    return {
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


class VideoRef(_Value):
    """Where the stitched video lies: a URL, or an object in the store."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_needs(url="string"), _needs(object="string")]}
    )

    url: str | None = Field(default=None, description="http(s) URL of the video.")
    object: str | None = Field(default=None, description="Key of an object in Segue's store.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.object is None):
            raise ValueError('name either "url" or "object"')
        return self


class AudioParams(_Value):
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


class Scene(_Value):
    """A span of the video and what it shows, as upstream describes it."""

    model_config = ConfigDict(json_schema_extra=_either_length)

    description: str = Field(default="", description="What is seen; the prompt is made from it.")
    duration_s: Duration = Field(description="Seconds; or give start_s and end_s.")
    start_s: Annotated[Seconds, Field(ge=0)] | None = None
    end_s: Annotated[Seconds, Field(ge=0)] | None = None
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


class Event(_Value):
    """A fact about one job. `kind` names the topic and, versioned, the CloudEvents type."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    job_id: JobId

    @classmethod
    def ce_type(cls) -> str:
        """The CloudEvents `type`: `segue.<kind>.v<version>`."""
        return f"segue.{cls.kind}.v{cls.version}"

    def event_id(self) -> str:
        """The derived id; the same fact said again has the same."""
        return ids.event_id(self.job_id, getattr(self, "run", 0), self.kind, *self._identity())

    def _identity(self) -> tuple[object, ...]:
        """What, beside job and run, tells this fact from its siblings."""
        return ()


class VideoStitched(Event):
    """A video is ready to be scored. Written by upstream."""

    kind = "video.stitched"

    video: VideoRef | None = None
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1)]
    audio_params: dict[str, Any] = Field(
        default_factory=dict, description="As in POST generate-scenes; the defaults fill the rest."
    )


class SceneRequested(Event):
    """Make the music of one scene. Written by the api; upstream may write it itself."""

    kind = "scene.requested"

    run: Run = 1
    scene_index: Annotated[int, Field(ge=0)]
    scene_count: Annotated[int, Field(ge=1)]
    duration_s: Duration
    description: str = ""
    prompt: str | None = None
    mood: str | None = None
    params: AudioParams = AudioParams()
    video: VideoRef | None = None

    @model_validator(mode="after")
    def _index_in_count(self) -> Self:
        if self.scene_index >= self.scene_count:
            raise ValueError(
                f"scene_index {self.scene_index} is not below scene_count {self.scene_count}"
            )
        return self

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index,)


class SegmentGenerated(Event):
    """The music of one scene lies in the store.

    Times are places on the track. The stored clip begins with `window_samples` of music that
    was heard before; the first sample after them belongs at `join_samples`. What of it counts
    for this scene is `[start_samples, start_samples + samples)`.
    """

    kind = "segment.generated"

    run: Run
    scene_index: Annotated[int, Field(ge=0)]
    scene_count: Annotated[int, Field(ge=1)]
    origin: Origin
    reason: str | None = Field(default=None, description="Why it is silence, or fresh.")
    object_key: str | None = Field(description="The clip in the store; null of silence.")
    content_type: str | None = None
    sha256: str | None = None
    size_bytes: Annotated[int, Field(ge=0)] = 0
    duration_s: Duration
    start_samples: Annotated[int, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)]
    clip_samples: Annotated[int, Field(ge=0)] = Field(description="Measured length of the clip.")
    window_samples: Annotated[int, Field(ge=0)] = 0
    join_samples: Annotated[int, Field(ge=0)]
    prompt: str
    seed: int | None = None
    provider: str
    model: str | None = None
    prediction_id: str | None = None
    output_url: str | None = Field(default=None, description="Where the provider still has it.")
    attempts: Annotated[int, Field(ge=1)] = 1
    generation_s: float | None = Field(default=None, description="Seconds the provider took.")
    cost_usd: float | None = None
    warnings: tuple[str, ...] = ()
    params: AudioParams = AudioParams()
    video: VideoRef | None = None

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index,)


class Seam(_Value):
    """What was measured at one joint of the track."""

    scene_index: Annotated[int, Field(ge=1)] = Field(description="The scene that begins here.")
    at_samples: int
    kind: Literal["splice", "fade"]
    gain_db: float = Field(default=0.0, description="Applied to the entering clip.")
    level_step_db: float | None = Field(default=None, description="Level after over before.")
    correlation: float | None = Field(default=None, description="Of tail and window, -1 to 1.")
    lag_samples: int = Field(default=0, description="By how much the window was shifted.")
    click: float | None = Field(
        default=None, description="Largest second difference over its median; 3 to 6 is music."
    )


class AudioMerged(Event):
    """The track of a run lies in the store."""

    kind = "audio.merged"

    run: Run
    scene_count: Annotated[int, Field(ge=1)]
    object_key: str
    content_type: str = "audio/mpeg"
    sha256: str
    size_bytes: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    duration_s: Duration
    loudness_lufs: float | None = Field(description="Measured; null of silence.")
    true_peak_dbtp: float | None = None
    gain_db: float = 0.0
    seams: tuple[Seam, ...] = ()
    silent_scenes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    params: AudioParams = AudioParams()
    video: VideoRef | None = None


class VideoMuxed(Event):
    """The video with its music lies in the store."""

    kind = "video.muxed"

    run: Run
    object_key: str
    content_type: str = "video/mp4"
    sha256: str
    size_bytes: Annotated[int, Field(ge=1)]
    duration_s: Duration
    sync_mode: SyncMode
    tempo: float = Field(default=1.0, description="Factor applied to the track's tempo.")
    warnings: tuple[str, ...] = ()


class JobFailed(Event):
    """A run ended without its result; what was made stays."""

    kind = "job.failed"

    run: Run
    stage: Stage
    code: str = Field(description="Machine-readable.")
    message: str = Field(description="For the person who asked.")
    scene_index: Annotated[int, Field(ge=0)] | None = None
    retryable: bool = Field(default=False, description="Whether asking again can help.")

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.stage, self.scene_index)


class JobCancelled(Event):
    """Stop this run, and spend nothing more on it."""

    kind = "job.cancelled"

    run: Run
    reason: str = ""


EVENTS: tuple[type[Event], ...] = (
    VideoStitched,
    SceneRequested,
    SegmentGenerated,
    AudioMerged,
    VideoMuxed,
    JobFailed,
    JobCancelled,
)
