"""Schemas: what clients send and what they are answered; never the event classes.

Bodies are read strictly (a number in quotes is not a number); unknown fields are ignored.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
)

from shared import ids
from shared.brief import ErrorStrategy, SyncMode, Transition
from shared.events import Origin

SCENE_S_MIN = 0.02  # one picture at 50 a second
TEXT_CHARS_MAX = 10_000  # every scene's record repeats the prompt; a record holds a million bytes
URL_CHARS_MAX = 8_192  # signed URLs are long
#: One segment of a URL path: no slashes, no control characters, no space at either end.
JOB_ID_PATTERN = r"^(?!\.{1,2}$)[^/\\\s\x00-\x1f\x7f-\x9f]([^/\\\x00-\x1f\x7f-\x9f\u2028\u2029]*[^/\\\s\x00-\x1f\x7f-\x9f])?$"  # noqa: E501 - one pattern

_JOB_ID_TEXT: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": ids.JOB_ID_CHARS_MAX,
    "pattern": JOB_ID_PATTERN,
}
JobIdText = Annotated[
    str,
    BeforeValidator(ids.check_job_id),
    WithJsonSchema({**_JOB_ID_TEXT, "examples": ["123"]}),
]
JobIdBody = Annotated[
    str,
    BeforeValidator(ids.check_job_id),
    WithJsonSchema(
        {
            "anyOf": [_JOB_ID_TEXT, {"type": "integer"}],
            "description": "A string or an integer; it is kept, and answered, as text.",
        }
    ),
]


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _web(url: str) -> str:
    if len(url) > URL_CHARS_MAX:
        raise ValueError(f"has {len(url)} characters, at most {URL_CHARS_MAX} are allowed")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in {"http", "https"} or not rest.strip("/") or not url.isprintable():
        raise ValueError("must be an http or https URL")
    return url


_NO_NUL = {"pattern": r"^[^\x00]*$"}
Text = Annotated[
    str,
    Field(max_length=TEXT_CHARS_MAX, json_schema_extra=_NO_NUL),
    AfterValidator(_storable),
]
WebUrl = Annotated[
    str,
    Field(
        description=f"http or https, at most {URL_CHARS_MAX} characters.",
        json_schema_extra={"pattern": r"^https?://[!-.0-~][!-~]*$"},
    ),
    AfterValidator(_web),
]
ObjectKey = Annotated[
    str,
    Field(
        description="A key in the store, at most 512 characters.",
        json_schema_extra={"pattern": r"^[A-Za-z0-9_-]{1,200}(/[A-Za-z0-9_-]{1,200})*$"},
    ),
]
Seconds = Annotated[float, Field(allow_inf_nan=False, description="Seconds.")]


KEY_PART_CHARS_MAX = 200  # a folder store's file system holds 255 bytes a name


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class VideoBody(_Body):
    """Where the stitched video lies: exactly one of the two."""

    url: WebUrl | None = None
    object: ObjectKey | None = Field(default=None, description="As POST /api/v3/videos answered.")


#: The two ways to name a video; the tags never show in an answer.
VIDEO_TAGS = frozenset({"by-reference", "by-address"})
Video = Annotated[
    Annotated[VideoBody, Tag("by-reference")] | Annotated[WebUrl, Tag("by-address")],
    Discriminator(lambda said: "by-address" if isinstance(said, str) else "by-reference"),
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
    run: int
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


class SceneStatus(BaseModel):
    """One scene of the run."""

    index: int
    state: Literal["waiting", "generating", "done", "failed"]
    duration_s: float | None
    origin: Origin | None = None
    reason: str | None = None
    provider: str | None = None
    cost_usd: float | None = None
    warnings: list[str] = []
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
    run: int = Field(description="0: not asked for yet.")
    state: str = Field(description="The run's place in docs/job-states.md; `pending` before it.")
    progress: Progress
    track: TrackFacts | None
    video: VideoFacts | None
    failure: Failure | None
    silent_scenes: list[int]
    warnings: list[str]
    cost_usd: float | None
    links: Links


class UploadAnswer(BaseModel):
    """A video that was taken in; `video` goes into POST generate-scenes as it is."""

    video: VideoBody
    size_bytes: int
    duration_s: float
    width: int
    height: int
