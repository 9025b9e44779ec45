"""Publishes the records of the outbox to Kafka, oldest first, and deletes them.

One relay runs at a time: the replica that holds the advisory lock. The records of a key are sent
one after the other, each after the broker acknowledged the previous one, so a failure never
reorders them; different keys are sent concurrently. A record is deleted after it was acknowledged;
one that is published again after a crash has the same event id. NOTIFY wakes the relay; polling is
the fallback.

A dead letter that is too large for its topic is truncated. Another record that Kafka rejects stays
in the outbox, because it was accepted; only its key waits (`SegueOutboxWaiting`).

I/O: PostgreSQL, Kafka; the store, for the record of a large dead letter.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from services.api.database import OUTBOX_CHANNEL, Database, OwnConnection, outbox
from services.api.database.outbox import OutboxRecord
from shared.clock import Clock
from shared.contract.topics import DLQ_SUFFIX
from shared.errors import PublishRejectedError, RetryableError
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Record
from shared.kafka.original_records import Letter, send_fitted
from shared.kafka.producer import Publisher
from shared.processing.retry import RetryPolicy, restarting
from shared.processing.wait import completes_first, wait_or_stop
from shared.settings import KafkaSettings
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

POLL_S = 1.0
BATCH = 500
KEYS_AT_ONCE = 100
RETRY = RetryPolicy(first_s=1.0, max_s=10.0, attempts_max=None)
STOP_S = 3.0


class OutboxRelay:
    """Publishes the outbox to Kafka."""

    def __init__(
        self,
        database: Database,
        settings: KafkaSettings,
        *,
        clock: Clock,
        log: Logger,
        store: ObjectStore | None = None,
    ) -> None:
        self._store = store
        self._database = database
        self._settings = settings
        self._clock = clock
        self._log = log
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop`; retry while Kafka or PostgreSQL is unavailable."""

        async def relay() -> None:
            async with self._publisher() as publisher:
                await self._publish_all(publisher, stop)

        def log_retry(error: Exception, _delay_s: float) -> None:
            self._log.warning(
                "outbox not published", action="outbox.publish_failed", reason=str(error)
            )

        await restarting(
            relay,
            stop=stop,
            policy=RETRY,
            clock=self._clock,
            on_retry=log_retry,
            errors=(RetryableError, PublishRejectedError),
        )

    @contextlib.asynccontextmanager
    async def _publisher(self) -> AsyncIterator[Publisher]:
        await ensure_topics(self._settings)
        publisher = Publisher(self._settings, source="api", clock=self._clock)
        await publisher.start()
        try:
            yield publisher
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await publisher.stop()

    async def _publish_all(self, publisher: Publisher, stop: asyncio.Event) -> None:
        """Wait for the relay lock, then publish until `stop`."""
        async with self._database.dedicated() as connection:
            while not await outbox.try_relay_lock(connection):
                if await wait_or_stop(stop, POLL_S):
                    return
            await connection.add_listener(OUTBOX_CHANNEL, self._wake)
            while not stop.is_set():
                self._woken.clear()
                if not await self.relay_once(connection, publisher):
                    await self._wait(stop)

    async def relay_once(self, connection: OwnConnection, publisher: Publisher) -> int:
        """Publish the oldest records; return how many.

        Raises:
            RetryableError: Kafka did not acknowledge all; acknowledged records are deleted.
            PublishRejectedError: Kafka rejects one of them; acknowledged records are deleted.
        """
        rows = await outbox.oldest(connection, count=BATCH)
        if not rows:
            return 0
        chains: dict[bytes | None, list[tuple[int, OutboxRecord]]] = {}
        for row in rows:
            chains.setdefault(row[1].key, []).append(row)
        slots = asyncio.Semaphore(KEYS_AT_ONCE)
        sent_ids: list[int] = []
        results = await asyncio.gather(
            *(self._send(chain, publisher, slots, sent_ids) for chain in chains.values()),
            return_exceptions=True,
        )
        await outbox.remove(connection, sent_ids)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._log.debug("outbox published", action="outbox.published", records=len(sent_ids))
        return len(sent_ids)

    async def _send(
        self,
        chain: Sequence[tuple[int, OutboxRecord]],
        publisher: Publisher,
        slots: asyncio.Semaphore,
        sent_ids: list[int],
    ) -> None:
        """Send the records of one key in order, until the broker rejects one."""

        async def send(letter: Letter) -> None:
            await publisher.send(
                topic=letter.record.topic,
                key=letter.record.key,
                value=letter.record.value,
                headers=letter.record.headers + letter.added,
            )

        async with slots:
            for number, record in chain:
                letter = _letter(record)
                if record.topic.endswith(DLQ_SUFFIX):
                    await send_fitted(letter, send, store=self._store)
                else:
                    await send(letter)
                sent_ids.append(number)

    async def _wait(self, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await completes_first(self._woken.wait(), stop.wait())

    def _wake(self, *_notification: object) -> None:
        self._woken.set()


def _letter(record: OutboxRecord) -> Letter:
    """Return a record of the outbox; the headers that make it a dead letter come last."""
    own = tuple(header for header in record.headers if header[0].startswith("dlq-"))
    others = tuple(header for header in record.headers if header not in own)
    consumed = Record(
        topic=record.topic,
        partition=0,
        offset=0,
        key=record.key,
        value=record.value,
        headers=others,
    )
    return Letter(record=consumed, added=own)
