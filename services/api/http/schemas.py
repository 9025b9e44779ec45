"""Response bodies of the api; the request bodies are in `domain/request_models.py`.

Events are never returned as they are: both contracts change independently.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from services.api.domain.progress import AudioState, StageName
from services.api.domain.request_models import StyleBody, VideoBody
from shared.contract.events import Origin, WaitCode

Moment = Annotated[
    datetime,
    PlainSerializer(
        lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), when_used="json"
    ),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2024-01-15T10:30:00Z"]}),
]


class StartedAudio(BaseModel):
    """Start and estimated duration of the run."""

    started_at: Moment
    estimated_duration: str = Field(examples=["45s"])


class CostEstimate(BaseModel):
    """Upper bound of what the run takes, computed before anything is spent."""

    cost_usd: float = Field(description="US dollars; cached scenes cost nothing in the end.")
    music_s: int = Field(description="Seconds of requested music, continuation windows included.")
    seconds: float = Field(description="Seconds from the first scene to the last.")
    provider: str


class Links(BaseModel):
    """Related paths; null: not available yet."""

    self: str
    events: str
    download: str | None = None
    video: str | None = None


class GenerateResponse(BaseModel):
    """The started run, or the running run of the same request."""

    job_id: str
    status: Literal["processing"] = "processing"
    message: str = "Audio generation started"
    audio_status: StartedAudio
    estimate: CostEstimate | None = Field(
        default=None, description="Upper bound of what the run takes."
    )
    max_cost: float | None = Field(
        default=None, description="Cost limit of the run in US dollars; null: none."
    )
    prompts: list[str] = Field(default=[], description="Prompt of each scene, in order.")
    run: int
    warnings: list[str] = Field(
        default=[], description="What the request does not ask for, and may have meant."
    )
    links: Links


class CancelResponse(BaseModel):
    """Whether the run is being cancelled."""

    job_id: str
    run: int = Field(description="The newest run; 0: none.")
    cancelling: bool = Field(description="false: there was nothing to cancel; nothing changed.")
    message: str
    links: Links


class AudioStatus(BaseModel):
    """Summary of the run."""

    status: AudioState
    generated_at: Moment | None
    size: int | None = Field(description="Size of the track in bytes.")
    merged_with_video: bool
    error: str | None


class Waiting(BaseModel):
    """Why a scene waits; it continues automatically."""

    code: WaitCode
    reason: str = Field(description="The provider's message.")
    since: Moment


class SceneStatus(BaseModel):
    """One scene of the run."""

    index: int = Field(description="From 0; the commands and messages number scenes from 1.")
    state: Literal["waiting", "generating", "done", "failed"]
    duration_s: float | None
    origin: Origin | None = None
    reason: str | None = None
    provider: str | None = None
    cost_usd: float | None = Field(default=None, description="null: unknown.")
    saved_usd: float | None = Field(default=None, description="Cost saved by the cache.")
    generation_s: float | None = Field(
        default=None, description="Seconds of the provider's computing time."
    )
    warnings: list[str] = []
    waiting: Waiting | None = Field(default=None, description="null: it does not wait.")
    links: dict[str, str] = {}


class Progress(BaseModel):
    """Progress of the run; the percentage never falls within a run."""

    stage: StageName
    percentage: int = Field(ge=0, le=100)
    scenes: list[SceneStatus]


class Failure(BaseModel):
    """Why the run failed."""

    stage: str
    code: str
    message: str
    scene_index: int | None = Field(description="From 0; null: no scene of its own.")
    retryable: bool


class TrackFacts(BaseModel):
    """Measurements of the track of this run."""

    duration_s: float
    samples: int
    size_bytes: int
    sha256: str
    loudness_lufs: float | None
    true_peak_dbtp: float | None
    gain_db: float
    seams: list[dict[str, Any]]


class VideoFacts(BaseModel):
    """Measurements of the muxed video of this run."""

    duration_s: float
    size_bytes: int
    sha256: str
    sync_mode: str
    tempo: float


class StatusResponse(BaseModel):
    """Status of a job's newest run."""

    job_id: str
    audio_status: AudioStatus
    waiting: Waiting | None = Field(
        default=None, description="Why the current scene waits; null: it does not wait."
    )
    run: int = Field(description="Number of the run; 0: none yet.")
    state: str = Field(
        description="Status of the run (docs/job-states.md); `pending` before the first run."
    )
    provider: str | None = Field(
        default=None,
        description="Music provider that the run keeps; null: started by upstream without one.",
    )
    progress: Progress
    track: TrackFacts | None
    video: VideoFacts | None
    failure: Failure | None
    silent_scenes: list[int] = Field(description="Indices from 0.")
    warnings: list[str]
    cost_usd: float | None = Field(description="Cost so far, failed scenes included.")
    saved_usd: float | None = Field(default=None, description="Cost saved by the cache so far.")
    generation_s: float | None = Field(
        default=None, description="Seconds of the provider's computing time so far."
    )
    estimate: CostEstimate | None = Field(
        default=None, description="As returned when the run started; null: started by upstream."
    )
    links: Links


class UploadResponse(BaseModel):
    """An uploaded video; send `video` unchanged in POST generate-scenes."""

    video: VideoBody
    size_bytes: int
    duration_s: float
    width: int
    height: int


class StyleUploadResponse(BaseModel):
    """An uploaded style sample; send `style_audio` unchanged in `audio_params`."""

    style_audio: StyleBody
    size_bytes: int
    duration_s: float
    channels: int
    sample_rate_hz: int
