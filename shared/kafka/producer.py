"""Publishes events and waits until the broker has acknowledged them.

Idempotent producer, acks from all replicas, key = job id. An event that is not acknowledged in
time is retryable: publishing it twice is harmless, because its id is derived from its content.

I/O: Kafka.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
    UnsupportedVersionError,
)

from shared.clock import Clock
from shared.contract.events import Event
from shared.errors import PublishRejectedError, RecordTooLargeError, RetryableError, SegueError
from shared.kafka.client import connection_options, unavailable
from shared.kafka.codec import Headers, Record, encode
from shared.kafka.tracing import send_span
from shared.settings import KafkaSettings
from shared.telemetry.log import logger_of

ACK_TIMEOUT_S = 30.0  # twice the request timeout: one retry fits
REQUEST_TIMEOUT_MS = 15_000
FLUSH_S = 1.5  # all records were acknowledged before; a hanging broker is not waited for
REQUEST_BYTES_MAX = 2_200_000  # a record of the largest size plus the dead-letter headers
COMPRESSED_BYTES_MAX = 64 * 1024**2  # of a record that is compressed after it was measured
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
#: what the broker will answer again, however often the record is sent
_REJECTED = (
    ClusterAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidTopicError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
    UnsupportedVersionError,
)


class EventPublisher(Protocol):
    """Publishes events; `Publisher` publishes them to Kafka."""

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Publish `event`; return when it cannot be lost any more.

        Raises:
            RetryableError: not acknowledged in time; it may or may not be stored.
            PublishRejectedError: Kafka will never accept it.
        """
        ...


class Publisher:
    """Publishes the records of one service."""

    def __init__(
        self, settings: KafkaSettings, *, source: str, clock: Clock, is_compressed: bool = False
    ) -> None:
        self._settings = settings
        #: for records that their producer compressed below the topic's limit
        self._is_compressed = is_compressed
        self._source = source
        self._clock = clock
        self._log = logger_of(source)
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            RetryableError: no broker is available.
        """
        producer = AIOKafkaProducer(
            **connection_options(self._settings),
            client_id=f"segue-{self._source}",
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=COMPRESSED_BYTES_MAX if self._is_compressed else REQUEST_BYTES_MAX,
            compression_type="gzip" if self._is_compressed else None,
        )
        try:
            await producer.start()
        except BaseException as error:
            await producer.stop()
            if not isinstance(error, KafkaError):
                raise
            raise unavailable(self._settings, error) from error
        self._producer = producer

    async def stop(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await producer.stop()

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Publish `event`; return when the broker has acknowledged it.

        Raises:
            RetryableError: not acknowledged in time; it may or may not be stored.
            PublishRejectedError: Kafka will never accept it.
        """
        record = encode(event, source=self._source, now=self._clock.now(), traceparent=traceparent)
        await self.send(
            topic=record.topic, key=record.key, value=record.value, headers=record.headers
        )

    async def send(
        self,
        *,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Send an encoded record to `topic` (no prefix); return when it is acknowledged.

        Raises:
            RetryableError: not acknowledged in time; it may or may not be stored.
            PublishRejectedError: Kafka will never accept it.
        """
        assert self._producer is not None, "call start() first"
        if key is None and value is None:
            value = b""  # aiokafka publishes no record without both
        with send_span(topic, key=key, headers=headers) as record:
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    stored = await self._producer.send_and_wait(
                        self._settings.topic_prefix + topic,
                        value=value,
                        key=key,
                        headers=list(record.headers),
                        partition=partition,
                    )
            except (KafkaError, TimeoutError) as error:
                raise _publish_error(self._settings.topic_prefix + topic, error) from error
            record.confirmed(stored.partition, stored.offset)
        self._log.debug(
            "record published",
            action="event.published",
            topic=topic,
            partition=stored.partition,
            offset=stored.offset,
        )

    async def send_all(self, records: Sequence[Record]) -> None:
        """Send encoded records, each to its topic and partition, in order and pipelined.

        Raises:
            RetryableError: not all were acknowledged in time; the broker has stored the first
                ones of each partition.
            PublishRejectedError: Kafka will never accept one of them.
        """
        assert self._producer is not None, "call start() first"
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                sent = [
                    await self._producer.send(
                        self._settings.topic_prefix + record.topic,
                        value=b"" if record.key is None and not record.value else record.value,
                        key=record.key,
                        headers=list(record.headers),
                        partition=record.partition,
                    )
                    for record in records
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            topics = sorted({self._settings.topic_prefix + record.topic for record in records})
            raise _publish_error(", ".join(topics), error) from error


def _publish_error(topic: str, error: Exception) -> SegueError:
    """Return whether publishing may succeed later, as the error to raise."""
    if isinstance(error, _TOO_LARGE):
        return RecordTooLargeError(
            f"topic {topic} accepts no record of this size: raise its max.message.bytes"
        )
    if isinstance(error, _REJECTED):
        return PublishRejectedError(
            f"Kafka rejects records for topic {topic}: {error!r}; check the rights of this service"
            " (segue acls) and the topic (segue topics)"
        )
    return RetryableError(f"publish on {topic} was not acknowledged: {error!r}")
