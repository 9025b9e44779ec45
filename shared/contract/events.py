"""Events: every fact that travels between services, and the contract with the outside.

An event is written once and never edited. New fields come with a default; nothing is renamed
or removed (`tests/schemas` holds the golden schemas). Readers ignore what they do not know,
so a newer producer never breaks an older consumer. On the wire: JSON value, key = job id,
CloudEvents 1.0 headers (`shared/kafka/codec.py`).

Units: seconds at this edge are exact decimals as people write them; samples are whole, per
channel, at 48 kHz (`shared/media/samples.py`). Pure.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from shared.contract import ids
from shared.contract.params import AudioParams, Duration, Kept, Scene, SyncMode, Value, VideoRef
from shared.contract.seams import Seam

JobId = Annotated[
    str,
    BeforeValidator(ids.check_job_id, json_schema_input_type=str | int),
    Field(description="The job; the key of every record. A string or an integer, kept as text."),
]
NUMBER_MAX = 2**31 - 1  # what every reader's integers hold
Run = Annotated[
    int,
    Field(
        ge=1,
        le=NUMBER_MAX,
        description="The n-th generation of the job; a newer supersedes an older.",
    ),
]
SceneIndex = Annotated[int, Field(ge=0, lt=NUMBER_MAX)]
SceneCount = Annotated[int, Field(ge=1, le=NUMBER_MAX)]


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


class Event(Value):
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
    scene_index: SceneIndex
    scene_count: SceneCount
    duration_s: Duration
    description: str = ""
    prompt: str | None = None
    mood: str | None = None
    params: AudioParams = AudioParams()
    video: VideoRef | None = None
    kept: Kept | None = Field(
        default=None, description="Not to be made: this run takes the segment of an earlier one."
    )
    anew: bool = Field(default=False, description="To be made anew, not found in the cache.")

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
    for this scene is `[start_samples, start_samples + samples)`. Of the window, the first
    `padding_samples` are nothing: the file does not tell how much to cut off. Where the clip
    `replaces`, its old music is heard instead of the clips that were laid there before.
    """

    kind = "segment.generated"

    run: Run
    scene_index: SceneIndex
    scene_count: SceneCount
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
    padding_samples: Annotated[int, Field(ge=0)] = 0
    replaces: bool = Field(default=False, description="It is a cumulative track.")
    join_samples: Annotated[int, Field(ge=0)]
    prompt: str
    seed: int | None = None
    provider: str
    model: str | None = None
    prediction_id: str | None = None
    output_url: str | None = Field(default=None, description="Where the provider still has it.")
    output_url_born_at: float | None = Field(
        default=None, description="Since when, seconds of Unix time; it dies after an hour."
    )
    attempts: Annotated[int, Field(ge=1)] = 1
    generation_s: float | None = Field(default=None, description="Seconds the provider took.")
    cost_usd: float | None = None
    saved_usd: float | None = Field(
        default=None, description="What a cached segment cost when it was made."
    )
    warnings: tuple[str, ...] = ()
    params: AudioParams = AudioParams()
    video: VideoRef | None = None
    kept: Kept | None = Field(default=None, description="It was taken from an earlier run.")

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index,)


class WaitCode(StrEnum):
    """What a scene waits for."""

    PROVIDER_PAUSED = "provider_paused"  #: it refuses everyone until a person acts
    PROVIDER_BUSY = "provider_busy"  #: it asked for patience, or is down


class SceneDelayed(Event):
    """A scene waits for its provider; said once per reason, and once more when it goes on."""

    kind = "scene.delayed"

    run: Run
    scene_index: SceneIndex
    code: WaitCode
    reason: str = Field(description="For the person who waits, in the provider's words.")
    over: bool = Field(default=False, description="It waits no longer.")

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.scene_index, self.code, self.reason, self.over)


class PredictionEnded(Event):
    """The provider says that a prediction ended. Believed in nothing else: look it up."""

    kind = "prediction.ended"

    prediction_id: str

    @override
    def _identity(self) -> tuple[object, ...]:
        return (self.prediction_id,)


class AudioMerged(Event):
    """The track of a run lies in the store."""

    kind = "audio.merged"

    run: Run
    scene_count: SceneCount
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
    scene_index: SceneIndex | None = None
    retryable: bool = Field(default=False, description="Whether asking again can help.")
    cost_usd: float | None = Field(
        default=None, description="What the scene cost all the same; null: nothing known."
    )

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
    SceneDelayed,
    PredictionEnded,
    SegmentGenerated,
    AudioMerged,
    VideoMuxed,
    JobFailed,
    JobCancelled,
)
