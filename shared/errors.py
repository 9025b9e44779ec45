"""Error types: the family of an error decides how its record is handled.

    RetryableError     a dependency is busy: the record is retried in its lane
    InvalidEventError  the record is invalid: dead letter, its run is parked
    JobError           the job cannot succeed: job.failed is published, the consumer continues

Any other exception is a bug: dead letter with its traceback, and job.failed. The code that raises
an error chooses its family; messages are never parsed. ARCHITECTURE.md shows every class in one
tree.

Pure.
"""


class SegueError(Exception):
    """Base class of every error that Segue raises deliberately."""


class RetryableError(SegueError):
    """A dependency is busy or unavailable; a retry may succeed."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        #: seconds that the server asked for; None: use the backoff
        self.retry_after_s = retry_after_s


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


class PublishRejectedError(SegueError):
    """Kafka rejects the record; a retry cannot help, a change of topic or rights can."""


class RecordTooLargeError(PublishRejectedError):
    """The record is larger than the topic or the producer accepts."""


class DeadLetterLimitError(SegueError):
    """Too many consecutive dead letters: the consumer stops and keeps the topic."""


class ServerStartError(SegueError):
    """A server of this machine did not start; the message names it and says what to do."""
