"""Error types: their family decides how a record is handled.

SegueError
├── RetryableError(retry_after_s)   a dependency is busy: retry the record in its lane
│   ├── ProviderBusyError           rate limit, cold start, 5xx        services/generator/providers
│   │   └── ProviderPausedError     rejects every request: no key, no credit
│   └── StoreUnavailableError       the object store did not answer    shared/storage
├── InvalidEventError(reason)       the record is invalid: dead letter, its run is parked
│   ├── UndecodableError            not JSON, not this event           shared/kafka/codec.py
│   └── SceneGapError               a scene skipped ahead              services/generator
├── JobError(code, reason)          the job cannot succeed: publish job.failed, continue
│   ├── ProviderRejectedError       the request is rejected for good   services/generator/providers
│   ├── MediaError                  no picture, no sound, too short    shared/media/decode.py, muxer
│   └── FfmpegError                 exit code and end of stderr        shared/media/ffmpeg.py
├── NotFoundError                   object not found                   shared/storage
├── SettingsError(field, problem)   invalid environment variable; the start fails
├── ServerStartError                a server of this machine did not start       embedded
└── DeadLetterLimitError            too many consecutive dead letters: stop the consumer

Anything else is a bug: dead letter with its traceback, and job.failed. The code that raises an
error chooses its family; messages are never parsed.
"""


class SegueError(Exception):
    """Base class of every error that Segue raises deliberately."""


class RetryableError(SegueError):
    """A dependency is busy or unavailable; a retry may succeed."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = (
            retry_after_s  #: seconds that the server asked for; None: use the backoff
        )


class ProviderBusyError(RetryableError):
    """The music provider is busy: rate limit, cold start, 5xx."""


class ProviderPausedError(ProviderBusyError):
    """The provider rejects every request until an operator acts: 401 (key) or 402 (credit)."""


class StoreUnavailableError(RetryableError):
    """The object store timed out or returned an error of its own."""


class InvalidEventError(SegueError):
    """The record is invalid; a retry cannot help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UndecodableError(InvalidEventError):
    """The value is not JSON, not the topic's event, or a field is missing or invalid."""


class SceneGapError(InvalidEventError):
    """A scene arrived before its predecessor finished: the topic is not ordered by job."""


class JobError(SegueError):
    """The job cannot succeed; `reason` is shown to the client."""

    code = "job_failed"  #: stable and machine-readable; one per subclass

    def __init__(
        self,
        reason: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        cost_usd: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code or type(self).code
        self.retryable = retryable  #: whether a new run can help
        self.cost_usd = cost_usd  #: cost incurred despite the failure; None: unknown


class ProviderRejectedError(JobError):
    """The provider rejects this request for good, or its result is unusable."""

    code = "provider_rejected"


class MediaError(JobError):
    """Unusable media: no video or audio stream, truncated, too short."""

    code = "invalid_media"


class NotFoundError(SegueError):
    """Object not found."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class SettingsError(SegueError):
    """An environment variable is invalid; the service does not start."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DeadLetterLimitError(SegueError):
    """Too many consecutive dead letters: the consumer stops and keeps the topic."""


class ServerStartError(SegueError):
    """A server of this machine did not start; the message names it and says what to do."""
