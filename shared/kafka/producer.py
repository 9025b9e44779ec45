"""Producer: publish an event and know that the broker has it.

Idempotent producer, acks from all replicas, key = job id. `publish` returns only when the
broker confirmed; what it could not confirm in time is retryable, because saying an event
twice is harmless (its id is derived).
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.clock import Clock
from shared.contract.events import Event
from shared.errors import RetryableError
from shared.kafka.client import connection_options
from shared.kafka.codec import Headers, Record, encode
from shared.kafka.tracing import send_span
from shared.settings import KafkaSettings
from shared.telemetry.log import logger_of

CONFIRM_S = 30.0  # the broker's own request timeout is half of it: one retry fits
REQUEST_TIMEOUT_MS = 15_000
FLUSH_S = 1.5  # everything was confirmed before; what hangs is not waited for
REQUEST_BYTES_MAX = 2_200_000  # a dead letter is a record of the largest size with more headers


class EventPublisher(Protocol):
    """Says events; `Publisher` does it on Kafka."""

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Publish `event`; returns when it cannot be lost any more.

        Raises:
            RetryableError: not confirmed in time; it may or may not be there.
        """
        ...


class Publisher:
    """Publishes for one service."""

    def __init__(self, settings: KafkaSettings, *, source: str, clock: Clock) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._log = logger_of(source)
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            RetryableError: no broker answers.
        """
        producer = AIOKafkaProducer(
            **connection_options(self._settings),
            client_id=f"segue-{self._source}",
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=REQUEST_BYTES_MAX,
        )
        try:
            await producer.start()
        except BaseException as error:
            await producer.stop()
            if not isinstance(error, KafkaError):
                raise
            raise RetryableError(f"Kafka at {self._settings.bootstrap_servers}: {error}") from error
        self._producer = producer

    async def stop(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await producer.stop()

    async def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Publish `event`; returns when the broker has it.

        Raises:
            RetryableError: not confirmed in time; it may or may not be there.
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
        """Send a ready record to `topic` (without prefix); returns when the broker has it.

        Raises:
            RetryableError: not confirmed in time; it may or may not be there.
        """
        assert self._producer is not None, "start() comes first"
        with send_span(topic, key=key, headers=headers) as record:
            try:
                async with asyncio.timeout(CONFIRM_S):
                    there = await self._producer.send_and_wait(
                        self._settings.topic_prefix + topic,
                        value=value,
                        key=key,
                        headers=list(record.headers),
                        partition=partition,
                    )
            except (KafkaError, TimeoutError) as error:
                raise RetryableError(f"publish on {topic} was not confirmed: {error!r}") from error
            record.confirmed(there.partition, there.offset)
        self._log.debug(
            "record is on Kafka",
            action="event.published",
            topic=topic,
            partition=there.partition,
            offset=there.offset,
        )

    async def send_all(self, records: Sequence[Record]) -> None:
        """Send ready records, each to its topic and partition, in this order and pipelined.

        Raises:
            RetryableError: not all was confirmed in time; what the broker has is a head of each
                partition's part of `records`.
        """
        assert self._producer is not None, "start() comes first"
        try:
            async with asyncio.timeout(CONFIRM_S):
                sent = [
                    await self._producer.send(
                        self._settings.topic_prefix + record.topic,
                        value=record.value,
                        key=record.key,
                        headers=list(record.headers),
                        partition=record.partition,
                    )
                    for record in records
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            raise RetryableError(f"publishing was not confirmed: {error!r}") from error
