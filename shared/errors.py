"""Errors: the families that decide where a record goes.

SegueError
├── RetryableError(retry_after_s)   the world is busy: run the same record again, in its lane
│   ├── ProviderBusyError           rate limit, cold start, 5xx        services/generator/providers
│   │   └── ProviderPausedError     refuses everyone: no key, no credit
│   └── StoreUnavailableError       the object store did not answer    shared/storage
├── InvalidEventError(reason)       the record is wrong: dead letter, its job is parked
│   ├── UndecodableError            not JSON, not this event           shared/kafka/codec.py
│   └── SceneGapError               a scene skipped ahead              services/generator
├── JobError(code, reason)          the job cannot succeed: publish job.failed, carry on
│   ├── ProviderRejectedError       refused, or impossible to make     services/generator/providers
│   ├── MediaError                  no picture, no sound, too short    shared/media/decode.py, muxer
│   └── FfmpegError                 exit code and last words           shared/media/ffmpeg.py
├── NotFoundError                   an object that is not there        shared/storage
├── SettingsError(field, problem)   will not start, says which variable and why
├── ServerStartError                a server of this machine did not start       embedded
└── DeadLetterLimitError            too many dead letters in a row: stop, keep the topic

Anything else is a bug: dead letter with its traceback, and the job says so.
The raiser, who knows, chooses the family; nobody guesses from text.
"""


class SegueError(Exception):
    """The root: everything Segue raises on purpose."""


class RetryableError(SegueError):
    """The world is busy; the same work may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s  #: seconds the other side asked for; None: our backoff


class ProviderBusyError(RetryableError):
    """The music provider asks for patience: rate limit, cold start, 5xx."""


class ProviderPausedError(ProviderBusyError):
    """The provider refuses everyone until a person acts: key revoked (401), no credit (402)."""


class StoreUnavailableError(RetryableError):
    """The object store did not answer in time, or answered with a fault of its own."""


class InvalidEventError(SegueError):
    """The record is wrong and stays wrong however often it is read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UndecodableError(InvalidEventError):
    """Not JSON, not the event its topic carries, or a field is missing or wrong."""


class SceneGapError(InvalidEventError):
    """A scene came whose predecessor was never finished: the topic is not ordered by job."""


class JobError(SegueError):
    """The job cannot succeed as asked; `reason` is written for the person who asked."""

    code = "job_failed"  #: stable, machine-readable; each leaf has its own

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
        self.retryable = retryable  #: whether asking again can help
        self.cost_usd = cost_usd  #: what was paid all the same; None: nothing known


class ProviderRejectedError(JobError):
    """The provider refuses this request for good, or its answer cannot be used."""

    code = "provider_rejected"


class MediaError(JobError):
    """Media that cannot be used: no picture stream, no sound, truncated, too short."""

    code = "invalid_media"


class NotFoundError(SegueError):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class SettingsError(SegueError):
    """The service will not start: which variable is wrong, and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DeadLetterLimitError(SegueError):
    """So many dead letters in a row that the fault is ours: stop and keep the topic."""


class ServerStartError(SegueError):
    """A server of this machine did not start; the message names it and says what to do."""
