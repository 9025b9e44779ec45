"""Defines every event that services publish, and so the contract with other systems.

Published events never change. A new field has a default; no field is renamed or removed
(`tests/schemas` holds the released schemas). Readers ignore unknown fields, so a newer producer
never breaks an older consumer. Validation of a list stops at its first invalid item (`FailFast`):
a megabyte can hold 300,000 of them. On the wire: JSON value, key = job id, CloudEvents 1.0 headers
(`shared/kafka/codec.py`).

Units: seconds are decimals; samples are integers per channel at 48 kHz
(`shared/media/samples.py`). Pure.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, model_validator
from typing_extensions import override

from shared.contract import ids
from shared.contract.params import (
    AudioParams,
    Duration,
    Kept,
    Scene,
    SceneSpec,
    SyncMode,
    Value,
    VideoRef,
)

JobId = Annotated[
    str,
    BeforeValidator(ids.check_job_id, json_schema_input_type=str | int),
    Field(description="The job; the key of every record. A string or an integer, kept as text."),
]
NUMBER_MAX = 2**31 - 1  # the largest integer that every reader can hold
NO_RUN = 0  #: the run number of an event that belongs to a job and to no run
Run = Annotated[
    int,
    Field(
        ge=1,
        le=NUMBER_MAX,
        description="Number of the run, from 1; a newer run supersedes an older one.",
    ),
]
ProviderText = Annotated[str, Field(min_length=1, max_length=100)] | None
SceneIndex = Annotated[int, Field(ge=0, lt=NUMBER_MAX)]
SceneCount = Annotated[int, Field(ge=1, le=NUMBER_MAX)]


class Origin(StrEnum):
    """How a segment was generated."""

    CONTINUED = "continued"  #: continues the preceding music
    FRESH = "fresh"  #: composed without preceding music
    CACHED = "cached"  #: composed earlier for the same input
    SILENCE = "silence"  #: by the error strategy, or by the silence provider


class Stage(StrEnum):
    """A stage of the pipeline."""

    INGEST = "ingest"
    GENERATION = "generation"
    MERGE = "merge"
    MUX = "mux"


class Event(Value):
    """Base of all events. `kind` is the topic; with the version it is the CloudEvents type."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    job_id: JobId

    @classmethod
    def ce_type(cls) -> str:
        """Return the CloudEvents `type`: `segue.<kind>.v<version>`."""
        return f"segue.{cls.kind}.v{cls.version}"

    def event_id(self) -> str:
        """Return the derived id; the same event published again has the same id."""
        return ids.event_id(self.job_id, run_of(self), self.kind, *self._identity())

    def _identity(self) -> tuple[object, ...]:
        """Return what identifies the event within its run and kind."""
        return ()


class RunEvent(Event):
    """Base of the events of one run."""

    run: Run


def run_of(event: Event) -> int:
    """Return the run that `event` belongs to; `NO_RUN` if it belongs to a job only."""
    return event.run if isinstance(event, RunEvent) else NO_RUN


class VideoStitched(Event):
    """A video is ready to be scored. Written by upstream."""

    kind = "video.stitched"

    video: VideoRef | None = None
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1), FailFast()]
    audio_params: dict[str, Any] = Field(
        default_factory=dict,
        description="As in POST generate-scenes; missing fields get their defaults, an unknown one "
        "makes the event invalid.",
    )


class SceneRequested(SceneSpec, RunEvent):
    """Requests the music of one scene. Written by the api; upstream may write it as well."""

    kind = "scene.requested"

    run: Run = 1
    scene_index: SceneIndex
    scene_count: SceneCount
    params: AudioParams = AudioParams()
    video: VideoRef | None = None
    kept: Kept | None = Field(
        default=None,
        description="The segment of an earlier run to take instead of generating one.",
    )
    anew: bool = Field(default=False, description="Generate the scene without the cache.")
    provider: ProviderText = Field(
        default=None,
        description="The music provider of the run; null: the generator's own. A run keeps the "
        "provider that it started with.",
    )

    @classmethod
    def of(
        cls,
        scene: SceneSpec,
        *,
        job_id: str,
        run: int,
        scene_index: int,
        scene_count: int,
        params: AudioParams,
        video: VideoRef | None,
        kept: Kept | None = None,
        skip_cache: bool = False,
        provider: str | None = None,
    ) -> Self:
        """Return the request of `scene`, with all its fields."""
        return cls(
            **{name: getattr(scene, name) for name in SceneSpec.model_fields},
            job_id=job_id,
            run=run,
            scene_index=scene_index,
            scene_count=scene_count,
            params=params,
            video=video,
            kept=kept,
            anew=skip_cache,
            provider=provider,
        )

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


class SegmentGenerated(RunEvent):
    """The music of one scene is stored.

    Positions are samples of the track. The stored clip starts with `window_samples` of the
    preceding music; the first sample after them belongs at `join_samples`. The part that counts
    for this scene is `[start_samples, start_samples + samples)`. The first `padding_samples` of
    the window are encoder padding, because the file does not state its delay. If the clip
    `replaces`, its window replaces the preceding clips on the track.
    """

    kind = "segment.generated"

    scene_index: SceneIndex
    scene_count: SceneCount
    origin: Origin
    reason: str | None = Field(default=None, description="Why the origin is silence or fresh.")
    object_key: str | None = Field(description="The clip in the store; null for silence.")
    content_type: str | None = None
    sha256: str | None = None
    size_bytes: Annotated[int, Field(ge=0)] = 0
    duration_s: Duration
    start_samples: Annotated[int, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)]
    clip_samples: Annotated[int, Field(ge=0)] = Field(description="Measured length of the clip.")
    window_samples: Annotated[int, Field(ge=0)] = 0
    padding_samples: Annotated[int, Field(ge=0)] = 0
    replaces: bool = Field(default=False, description="The clip is a cumulative track.")
    join_samples: Annotated[int, Field(ge=0)]
    prompt: str
    seed: int | None = None
    provider: str
    model: str | None = None
    prediction_id: str | None = None
    output_url: str | None = Field(default=None, description="The provider's own copy.")
    output_url_born_at: float | None = Field(
        default=None, description="When the copy was created, Unix seconds; it lasts one hour."
    )
    attempts: Annotated[int, Field(ge=1)] = 1
    generation_s: float | None = Field(
        default=None, description="Seconds of the provider's computing time."
    )
    cost_usd: float | None = None
    saved_usd: float | None = Field(
        default=None, description="What a cached segment cost when it was generated."
    )
    warnings: Annotated[tuple[str, ...], FailFast()] = ()
    params: AudioParams = AudioParams()
    video: VideoRef | None = None
    kept: Kept | None = Field(
        default=None, description="The earlier run that the segment was taken from."
    )

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index,)


class WaitCode(StrEnum):
    """Why a scene waits for its provider."""

    PROVIDER_PAUSED = "provider_paused"  #: the account is refused until a person acts
    PROVIDER_BUSY = "provider_busy"  #: rate limit, or the provider is unavailable


class SceneDelayed(RunEvent):
    """A scene waits for its provider; published once per reason, and once when it resumes."""

    kind = "scene.delayed"

    scene_index: SceneIndex
    code: WaitCode
    reason: str = Field(description="The provider's message.")
    over: bool = Field(default=False, description="The scene no longer waits.")

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index, self.code, self.reason, self.over)


class PredictionEnded(Event):
    """The provider reported the end of a prediction; the generator reads the result itself."""

    kind = "prediction.ended"

    prediction_id: str

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.prediction_id,)


class Seam(Value):
    """What the merger measured where two segments meet."""

    scene_index: Annotated[int, Field(ge=1)] = Field(description="The scene that starts here.")
    at_samples: int
    kind: Literal["splice", "fade"]
    gain_db: float = Field(default=0.0, description="Gain applied to the entering clip.")
    level_step_db: float | None = Field(
        default=None, description="Level after the seam relative to the level before it."
    )
    correlation: float | None = Field(
        default=None, description="Correlation of tail and window, -1 to 1."
    )
    lag_samples: int = Field(default=0, description="By how much the window was shifted.")
    click: float | None = Field(
        default=None,
        description="Largest second difference over its median; 3 to 6 in ordinary music.",
    )
    bridge_samples: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Length of the crossfade into a kept scene whose predecessor was generated "
        "again.",
    )


class AudioMerged(RunEvent):
    """The track of a run is stored."""

    kind = "audio.merged"

    scene_count: SceneCount
    object_key: str
    content_type: str = "audio/mpeg"
    sha256: str
    size_bytes: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    duration_s: Duration
    loudness_lufs: float | None = Field(description="Measured loudness; null for silence.")
    true_peak_dbtp: float | None = None
    gain_db: float = 0.0
    seams: Annotated[tuple[Seam, ...], FailFast()] = ()
    silent_scenes: Annotated[tuple[int, ...], FailFast()] = ()
    warnings: Annotated[tuple[str, ...], FailFast()] = ()
    params: AudioParams = AudioParams()
    video: VideoRef | None = None


class VideoMuxed(RunEvent):
    """The video with its music is stored."""

    kind = "video.muxed"

    object_key: str
    content_type: str = "video/mp4"
    sha256: str
    size_bytes: Annotated[int, Field(ge=1)]
    duration_s: Duration
    sync_mode: SyncMode
    tempo: float = Field(default=1.0, description="Factor applied to the track's tempo.")
    warnings: Annotated[tuple[str, ...], FailFast()] = ()


class JobFailed(RunEvent):
    """A run failed; the objects it stored remain."""

    kind = "job.failed"

    stage: Stage
    code: str = Field(description="Machine-readable error code.")
    message: str = Field(description="Error message for the client.")
    scene_index: SceneIndex | None = None
    retryable: bool = Field(default=False, description="Whether requesting the run again can help.")
    cost_usd: float | None = Field(
        default=None, description="What the failed scene cost; null: unknown."
    )

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.stage, self.scene_index)


class JobCancelled(RunEvent):
    """Cancels a run: no service spends anything more on it."""

    kind = "job.cancelled"

    reason: str = ""


EVENTS: tuple[type[Event], ...] = (
    VideoStitched,
    SceneRequested,
    SceneDelayed,
    PredictionEnded,
    SegmentGenerated,
    AudioMerged,
    VideoMuxed,
    JobFailed,
    JobCancelled,
)
