"""Schemas: what clients send and what they are answered; never the event classes.

Bodies are read strictly (a number in quotes is not a number); unknown fields are ignored.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
)

from services.api.domain.request_fields import (
    SCENE_S_MIN,
    JobIdBody,
    ObjectKey,
    Seconds,
    Text,
    WebUrl,
)
from shared.contract.events import Origin, WaitCode
from shared.contract.params import COST_USD_MAX, ErrorStrategy, OnMaxCost, SyncMode, Transition


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class VideoBody(_Body):
    """Where the stitched video lies: exactly one of the two."""

    url: WebUrl | None = None
    object: ObjectKey | None = Field(default=None, description="As POST /api/v3/videos answered.")


class StyleBody(_Body):
    """Where a style sample lies: exactly one of the two."""

    url: WebUrl | None = None
    object: ObjectKey | None = Field(
        default=None, description="As POST /api/v3/audio/styles answered."
    )


#: The two ways to name a piece of media; the tags never show in an answer.
MEDIA_TAGS = frozenset({"by-reference", "by-address"})
_BY_KIND = Discriminator(lambda said: "by-address" if isinstance(said, str) else "by-reference")
Video = Annotated[
    Annotated[VideoBody, Tag("by-reference")] | Annotated[WebUrl, Tag("by-address")], _BY_KIND
]
Style = Annotated[
    Annotated[StyleBody, Tag("by-reference")] | Annotated[WebUrl, Tag("by-address")], _BY_KIND
]


class SceneBody(_Body):
    """A span of the video: `duration_s`, or `start_s` and `end_s`."""

    description: Text = Field(default="", description="What is seen; the prompt is made from it.")
    duration_s: Seconds | None = Field(default=None, ge=SCENE_S_MIN)
    start_s: Seconds | None = Field(default=None, ge=0)
    end_s: Seconds | None = Field(default=None, gt=0)
    prompt: Text | None = Field(default=None, description="Wins over everything.")
    mood: Text | None = Field(default=None, description="Wins over the description.")


class AudioParamsBody(_Body):
    """How the music is to be; what is left out, or null, takes the service's default."""

    fade_duration: Seconds | None = Field(
        default=None, ge=0, le=30, description="Seconds between segments; 1.0 if not given."
    )
    sync_mode: SyncMode | None = Field(default=None, description="`trim` if not given.")
    merge_with_video: bool | None = Field(
        default=None, description="Mux the track under the video; false if not given."
    )
    error_strategy: ErrorStrategy | None = Field(
        default=None, description="`continue_with_silence` if not given."
    )
    prompt: Text | None = Field(default=None, description="For every scene without its own.")
    transition: Transition | None = Field(default=None, description="`auto` if not given.")
    style_audio: Style | None = Field(
        default=None,
        description="Music that the first scene continues: `{url}`, `{object}`, or the URL as a "
        "plain string.",
    )
    use_cache: bool | None = Field(
        default=None,
        description="Take music that was made for the same before; true if not given.",
    )
    max_cost: float | None = Field(
        default=None,
        ge=0,
        le=COST_USD_MAX,
        allow_inf_nan=False,
        description="US dollars that the run may spend; AUDIO_MAX_COST if not given.",
    )
    on_max_cost: OnMaxCost | None = Field(
        default=None,
        description="`refuse` (if not given): a run whose estimate is over `max_cost` does not "
        "begin. `error_strategy`: it begins, and scenes that cannot be paid any more follow "
        "`error_strategy`.",
    )


class GenerateBody(_Body):
    """Start the audio of a job; with `scenes`, the job is created or given new scenes."""

    job_id: JobIdBody
    audio_params: AudioParamsBody | None = None
    scenes: tuple[SceneBody, ...] | None = None
    video: Video | None = Field(
        default=None, description="`{url}`, `{object}`, or the URL as a plain string."
    )


Moment = Annotated[
    datetime,
    PlainSerializer(
        lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), when_used="json"
    ),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2024-01-15T10:30:00Z"]}),
]


class StartedAudio(BaseModel):
    """When the run began and how long it may take."""

    started_at: Moment
    estimated_duration: str = Field(examples=["45s"])


class CostEstimate(BaseModel):
    """What a run takes at most, said before anything is spent."""

    cost_usd: float = Field(description="US dollars; what is cached costs nothing after all.")
    music_s: int = Field(description="Seconds of music asked for, windows included.")
    seconds: float = Field(description="From the first scene to the last.")
    provider: str


class Links(BaseModel):
    """Where to go next; null: not there yet."""

    self: str
    events: str
    download: str | None = None
    video: str | None = None


class GenerateAnswer(BaseModel):
    """The run was accepted, or runs already."""

    job_id: str
    status: Literal["processing"] = "processing"
    message: str = "Audio generation started"
    audio_status: StartedAudio
    estimate: CostEstimate | None = Field(
        default=None, description="null of a run that an older api began."
    )
    run: int
    links: Links


class CancelAnswer(BaseModel):
    """Whether a run stops."""

    job_id: str
    run: int = Field(description="The newest; 0: none was asked for.")
    cancelling: bool = Field(description="false: there was nothing to cancel, and nothing changed.")
    message: str
    links: Links


AudioState = Literal["pending", "processing", "completed", "failed", "cancelled"]
StageName = Literal["audio_generation_pending", "audio_generation", "audio_completed"]


class AudioStatus(BaseModel):
    """The run in short."""

    status: AudioState
    generated_at: Moment | None
    size: int | None = Field(description="Bytes of the track.")
    merged_with_video: bool
    error: str | None


class Waiting(BaseModel):
    """What a scene waits for; it goes on by itself."""

    code: WaitCode
    reason: str = Field(description="In the provider's words.")
    since: Moment


class SceneStatus(BaseModel):
    """One scene of the run."""

    index: int
    state: Literal["waiting", "generating", "done", "failed"]
    duration_s: float | None
    origin: Origin | None = None
    reason: str | None = None
    provider: str | None = None
    cost_usd: float | None = Field(default=None, description="null: nobody counted it.")
    saved_usd: float | None = Field(default=None, description="What the cache spared.")
    generation_s: float | None = Field(default=None, description="Seconds of the provider's work.")
    warnings: list[str] = []
    waiting: Waiting | None = Field(default=None, description="null: it waits for nobody.")
    links: dict[str, str] = {}


class Progress(BaseModel):
    """How far the run is; the percentage never falls within a run."""

    stage: StageName
    percentage: int = Field(ge=0, le=100)
    scenes: list[SceneStatus]


class Failure(BaseModel):
    """Why the run failed."""

    stage: str
    code: str
    message: str
    scene_index: int | None
    retryable: bool


class TrackFacts(BaseModel):
    """What was measured of the track of this run."""

    duration_s: float
    samples: int
    size_bytes: int
    sha256: str
    loudness_lufs: float | None
    true_peak_dbtp: float | None
    gain_db: float
    seams: list[dict[str, Any]]


class VideoFacts(BaseModel):
    """What was measured of the muxed video of this run."""

    duration_s: float
    size_bytes: int
    sha256: str
    sync_mode: str
    tempo: float


class StatusAnswer(BaseModel):
    """Everything known of a job's newest run."""

    job_id: str
    audio_status: AudioStatus
    waiting: Waiting | None = Field(
        default=None, description="What the scene that is being made waits for; null: nobody."
    )
    run: int = Field(description="0: not asked for yet.")
    state: str = Field(description="The run's place in docs/job-states.md; `pending` before it.")
    progress: Progress
    track: TrackFacts | None
    video: VideoFacts | None
    failure: Failure | None
    silent_scenes: list[int]
    warnings: list[str]
    cost_usd: float | None = Field(description="So far, failed scenes included.")
    saved_usd: float | None = Field(default=None, description="What the cache spared so far.")
    generation_s: float | None = Field(
        default=None, description="Seconds that the provider worked so far."
    )
    estimate: CostEstimate | None = Field(
        default=None, description="What was said beforehand; null: the run was not begun here."
    )
    links: Links


class UploadAnswer(BaseModel):
    """A video that was taken in; `video` goes into POST generate-scenes as it is."""

    video: VideoBody
    size_bytes: int
    duration_s: float
    width: int
    height: int


class StyleUploadAnswer(BaseModel):
    """A style sample that was taken in; `style_audio` goes into `audio_params` as it is."""

    style_audio: StyleBody
    size_bytes: int
    duration_s: float
    channels: int
    sample_rate_hz: int
