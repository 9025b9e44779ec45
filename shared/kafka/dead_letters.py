"""Publishes records that cannot be processed on dead-letter topics, with the reason.

The original key, value and headers stay; `dlq-…` headers give the record's origin, the error and
the number of attempts. A dead letter interrupts the order of its job, so it closes the lane:
later records of the same run on that topic are parked behind it (`parked_runs`). Many
consecutive dead letters mean that the service is at fault: the consumer stops, and the remaining
records stay on their topic. Records that cannot be decoded do not count: they say nothing about
the service, and must not stop it.

I/O: Kafka; the store, for a record that is too large for its letter.
"""

import traceback
from datetime import datetime

from shared.clock import Clock
from shared.contract.topics import DLQ_SUFFIX
from shared.errors import DeadLetterLimitError
from shared.kafka.codec import Headers, Record, Undecodable
from shared.kafka.original_records import Letter, send_fitted
from shared.kafka.parked_runs import FIRST_FAILED_AT
from shared.kafka.producer import Publisher
from shared.storage import ObjectStore
from shared.telemetry import service_version
from shared.telemetry.metrics import DEAD_LETTERS_IN_ROW, DEAD_LETTERS_IN_ROW_MAX
from shared.telemetry.redaction import redact

STACK_CHARS_MAX = 4000
REASON_CHARS_MAX = 4000
CONTENT = "dlq-content"  #: what the value is, if it is not the record's value
LAST_OFFSET = "dlq-origin-last-offset"


class DeadLetters:
    """The dead letters of one service, and the limit of consecutive ones."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        service: str,
        clock: Clock,
        consecutive_max: int,
        store: ObjectStore | None = None,
    ) -> None:
        self._publisher = publisher
        self._store = store  #: None: records that are too large are only truncated
        self._service = service
        self._clock = clock
        self._consecutive_max = consecutive_max
        self._consecutive = 0
        self._last_error = ""
        self._gauge = DEAD_LETTERS_IN_ROW.labels(service)
        self._gauge.set(0)
        DEAD_LETTERS_IN_ROW_MAX.labels(service).set(consecutive_max)

    def record_success(self) -> None:
        """Reset the count of consecutive dead letters, unless the limit was reached."""
        if not self._is_limit_reached:
            self._consecutive = 0
            self._gauge.set(0)

    def record_failure(self, error: Exception) -> None:
        """Count a failed record, before anything about it is published or stored.

        Raises:
            DeadLetterLimitError: the limit was reached already; the record stays uncommitted.
        """
        if self._is_limit_reached:
            raise self._limit_error()
        self._consecutive += 1
        self._gauge.set(self._consecutive)
        self._last_error = str(error)

    async def publish(
        self,
        record: Record,
        error: Exception,
        *,
        attempts: int,
        first_failed_at: datetime | None = None,
        is_counted: bool = True,
    ) -> None:
        """Publish `record` on its dead-letter topic; return when the broker has stored it.

        Call `record_failure` before, if it `is_counted`: not if it is parked behind another dead
        letter, or cannot be decoded. `first_failed_at` is the time of the first failed attempt;
        None if there was only one.

        Raises:
            DeadLetterLimitError: this was the last one allowed; it is stored.
            PublishRejectedError: Kafka will never accept it.
        """
        added = dead_letter_headers(
            record,
            error,
            attempts=attempts,
            service=self._service,
            now=self._clock.now(),
            first_failed_at=first_failed_at,
        )
        await send_fitted(Letter(record=record, added=added), self._send, store=self._store)
        if self._is_limit_reached and is_counted:
            raise self._limit_error()

    async def _send(self, letter: Letter) -> None:
        record = letter.record
        await self._publisher.send(
            topic=record.topic + DLQ_SUFFIX,
            key=record.key,
            value=record.value,
            headers=record.headers + letter.added,
            partition=record.partition,
        )

    @property
    def _is_limit_reached(self) -> bool:
        return self._consecutive >= self._consecutive_max

    def _limit_error(self) -> DeadLetterLimitError:
        return DeadLetterLimitError(
            f"{self._consecutive} dead letters in a row, the last: {self._last_error}"
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
    """Return the headers added to a dead letter: its origin, the error and the attempts."""
    stack = "".join(traceback.format_exception(error))[-STACK_CHARS_MAX:]
    value = record.value
    first_offset = value.first if isinstance(value, Undecodable) else record.offset
    headers: dict[str, object] = {
        "dlq-reason": redact(str(error))[:REASON_CHARS_MAX] or type(error).__name__,
        "dlq-exception": type(error).__name__,
        "dlq-stack": redact(stack),
        "dlq-origin-topic": record.topic,
        "dlq-origin-partition": record.partition,
        "dlq-origin-offset": first_offset,
        "dlq-origin-timestamp": record.timestamp_ms or "",
        "dlq-attempts": attempts,
        FIRST_FAILED_AT: record.header(FIRST_FAILED_AT) or (first_failed_at or now).isoformat(),
        "dlq-failed-at": now.isoformat(),
        "dlq-service": service,
        "dlq-service-version": service_version(),
    }
    if isinstance(value, Undecodable):
        headers |= {CONTENT: value.content, LAST_OFFSET: value.last}
    return tuple((name, str(value).encode()) for name, value in headers.items())
