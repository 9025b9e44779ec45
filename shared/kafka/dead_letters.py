"""Dead letters: records that cannot be worked off, kept whole with the reason beside them.

The original key, value and headers stay; `dlq-…` headers say where the record came from, why
it is here and how often it was tried. A dead letter breaks the order of its job, so it closes
the lane: later records of the same run on that topic are parked behind it (`parking`). Many
dead letters in a row mean the fault is ours: the consumer stops with its topic intact.
"""

import traceback
from datetime import datetime

from shared.clock import Clock
from shared.contract.topics import DLQ_SUFFIX
from shared.errors import DeadLetterLimitError
from shared.kafka.codec import Headers, Record
from shared.kafka.parked_runs import FIRST_FAILED_AT
from shared.kafka.producer import Publisher
from shared.telemetry import service_version
from shared.telemetry.metrics import DEAD_LETTERS_IN_ROW, DEAD_LETTERS_IN_ROW_MAX
from shared.telemetry.redaction import redact

STACK_CHARS_MAX = 4000


class DeadLetters:
    """Takes dead letters of one service."""

    def __init__(
        self, publisher: Publisher, *, service: str, clock: Clock, consecutive_max: int
    ) -> None:
        self._publisher = publisher
        self._service = service
        self._clock = clock
        self._consecutive_max = consecutive_max
        self._consecutive = 0
        self._last = ""
        self._shown = DEAD_LETTERS_IN_ROW.labels(service)
        self._shown.set(0)
        DEAD_LETTERS_IN_ROW_MAX.labels(service).set(consecutive_max)

    def record_success(self) -> None:
        """A record was worked off: the row of dead letters is broken, unless it was too long."""
        if not self._is_full:
            self._consecutive = 0
            self._shown.set(0)

    def record_failure(self, error: Exception) -> None:
        """Count one more, before anything is said of it or done to its run.

        Raises:
            DeadLetterLimitError: there were too many already; this record is left where it is.
        """
        if self._is_full:
            raise self._limit_error()
        self._consecutive += 1
        self._shown.set(self._consecutive)
        self._last = str(error)

    async def publish(
        self,
        record: Record,
        error: Exception,
        *,
        attempts: int,
        first_failed_at: datetime | None = None,
        is_parked: bool = False,
    ) -> None:
        """Publish `record` on its dead-letter topic; returns when the broker has it.

        It was admitted, or is parked `behind` one that was: that is not another fault.
        `first_failed_at` is when its first try failed; None: there was no other.

        Raises:
            DeadLetterLimitError: too many in a row; this one was kept, nothing more is taken.
        """
        await self._publisher.send(
            topic=record.topic + DLQ_SUFFIX,
            key=record.key,
            value=record.value,
            headers=record.headers
            + dead_letter_headers(
                record,
                error,
                attempts=attempts,
                service=self._service,
                now=self._clock.now(),
                first_failed_at=first_failed_at,
            ),
            partition=record.partition,
        )
        if self._is_full and not is_parked:
            raise self._limit_error()

    @property
    def _is_full(self) -> bool:
        return self._consecutive >= self._consecutive_max

    def _limit_error(self) -> DeadLetterLimitError:
        return DeadLetterLimitError(
            f"{self._consecutive} dead letters in a row, the last: {self._last}"
        )


def dead_letter_headers(
    record: Record,
    error: Exception,
    *,
    attempts: int,
    service: str,
    now: datetime,
    first_failed_at: datetime | None = None,
) -> Headers:
    """What is put beside the original headers: why `record` is here, and where it came from."""
    stack = "".join(traceback.format_exception(error))[-STACK_CHARS_MAX:]
    told: dict[str, object] = {
        "dlq-reason": redact(str(error)) or type(error).__name__,
        "dlq-exception": type(error).__name__,
        "dlq-stack": redact(stack),
        "dlq-origin-topic": record.topic,
        "dlq-origin-partition": record.partition,
        "dlq-origin-offset": record.offset,
        "dlq-origin-timestamp": record.timestamp_ms or "",
        "dlq-attempts": attempts,
        FIRST_FAILED_AT: record.header(FIRST_FAILED_AT) or (first_failed_at or now).isoformat(),
        "dlq-failed-at": now.isoformat(),
        "dlq-service": service,
        "dlq-service-version": service_version(),
    }
    return tuple((name, str(value).encode()) for name, value in told.items())
