"""Consumer: poll, lane, handle, commit; the loop of every aiokafka service.

The group's committed offset is the watermark: nothing beyond an unfinished record. When lanes
are full the partitions are paused, never dropped. A stop is a numbered sequence.
"""

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from shared.errors import RetryableError
from shared.kafka.client import connection_options
from shared.kafka.codec import Envelope, Record, lane_key, try_decode
from shared.kafka.router import Handle, Router
from shared.processing.lanes import Lanes
from shared.settings import KafkaSettings, LaneSettings
from shared.telemetry.consumer_metrics import ConsumerMetrics, export_lane_metrics
from shared.telemetry.log import Logger
from shared.telemetry.metrics import REDONE_TOTAL

POLL_MS = 200
POLL_RECORDS = 500
COMMIT_EVERY_S = 0.5
COMMIT_S = 10.0
# With the drain before and the flush after them, a stop is over within ten seconds even if the
# broker hangs; what was not committed is read again.
LAST_COMMIT_S, LEAVE_S = 2.0, 1.0
MAX_POLL_INTERVAL_MS = 300_000  # the loop polls every POLL_MS whatever the lanes do
RESUME_AT = 0.7  # of in_flight_max: paused partitions come back with room to spare


class LaneConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Consumes topics with one lane per job.

    `handlers` maps topic (no prefix) to its handler; `on_received` hears of every record that was
    understood the moment it arrives, before its turn in the lane.
    """

    def __init__(
        self,
        *,
        group: str,
        handlers: Mapping[str, Handle],
        on_received: Callable[[Envelope], None],
        router: Router,
        kafka: KafkaSettings,
        lanes: LaneSettings,
        log: Logger,
    ) -> None:
        self._handlers = handlers
        self._on_received = on_received
        self._router = router
        self._kafka = kafka
        self._limits = lanes
        self._log = log
        self._lanes: Lanes[int] = Lanes(self._let_go)
        self._done: dict[TopicPartition, int] = {}
        self._regrouping = False
        self._consumer = AIOKafkaConsumer(
            **connection_options(kafka),
            group_id=kafka.topic_prefix + group,
            client_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.heartbeat_s * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=kafka.fetch_max_wait_ms,
        )
        self._metrics = ConsumerMetrics(
            service=router.service,
            topics=list(handlers),
            prefix=kafka.topic_prefix,
            positions=self._lanes.positions,
            end_offset=self._end_of,
            clock=router.clock,
        )

    def figures(self) -> dict[str, int]:
        """How much is under way, for `readyz`."""
        return self._lanes.figures()

    async def run(self, stop: asyncio.Event, *, ready: asyncio.Event | None = None) -> None:
        """Consume until `stop`; `ready` is set once partitions are assigned.

        Raises:
            DeadLetterLimitError: too many dead letters in a row; nothing beyond them is lost.
            RetryableError: no broker answers at start.
        """
        self._consumer.subscribe(
            [self._kafka.topic_prefix + topic for topic in self._handlers], listener=self
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise RetryableError(f"Kafka at {self._kafka.bootstrap_servers}: {error}") from error
        self._log.info("consumer is ready", action="service.ready")
        if ready is not None:
            ready.set()
        committer = asyncio.create_task(self._commit_regularly())
        export_lane_metrics(
            self._router.service, self.figures, in_flight_max=self._limits.in_flight_max
        )
        try:
            with self._metrics.exported():
                while not stop.is_set() and not self._lanes.failure.done():
                    await self._poll()
        finally:
            committer.cancel()
            await self._stop()
        if self._lanes.failure.done():
            self._lanes.failure.result()

    async def _poll(self) -> None:
        self._keep_bounds()
        try:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        except KafkaError as error:
            self._log.warning("poll failed", action="commit.failed", reason=repr(error))
            await asyncio.sleep(POLL_MS / 1000)
            return
        for partition, records in polled.items():
            for raw in records:
                self._offer(partition, raw)

    def _offer(self, partition: TopicPartition, raw: ConsumerRecord) -> None:
        record = record_of(raw, prefix=self._kafka.topic_prefix)
        handle = self._handlers[record.topic]
        received = try_decode(record)
        if isinstance(received, Envelope):
            self._on_received(received)
        is_new = self._lanes.submit(
            partition=partition,
            offset=record.offset,
            key=lane_key(received),
            handle=record.offset,
            work=lambda: self._router.run(
                received, handle, wait_until_owned=self._lanes.wait_until_owned
            ),
            timestamp_s=record.timestamp_s,
        )
        if not is_new:
            REDONE_TOTAL.labels(self._router.service, "joined").inc()

    def _end_of(self, partition: Hashable) -> int | None:
        if partition not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(partition)
        return end

    def _keep_bounds(self) -> None:
        paused: set[TopicPartition] = self._consumer.paused()
        if self._lanes.in_flight >= self._limits.in_flight_max:
            self._consumer.pause(*(self._consumer.assignment() - paused))
        elif paused and self._lanes.in_flight < self._limits.in_flight_max * RESUME_AT:
            self._consumer.resume(*paused)

    def _let_go(self, slot: Hashable, offsets: list[int]) -> None:
        assert isinstance(slot, TopicPartition), "slots of this consumer are partitions"
        self._done[slot] = offsets[-1] + 1
        self._metrics.commit_due()

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            if not self._regrouping:
                await self._commit()

    async def _commit(self) -> None:
        mine = self._consumer.assignment()
        offsets = {tp: offset for tp, offset in self._done.items() if tp in mine}
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_S):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:  # said again at the next commit
            self._log.warning("commit failed", action="commit.failed", reason=repr(error))
            self._metrics.commit_failed()
            return
        for tp, offset in offsets.items():
            if self._done.get(tp) == offset:
                del self._done[tp]
        self._metrics.commit_confirmed(nothing_due=not self._done)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Suspend the lanes, and commit what is done while the group still knows us."""
        self._regrouping = True
        self._lanes.suspend()
        if revoked:
            await self._commit()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Go on with what came back; end the lanes of what went elsewhere."""
        for slot, count in self._lanes.resume(set(assigned)).items():
            self._log.info(
                "partition lost", action="partitions.lost", partition=str(slot), records=count
            )
        self._done = {tp: offset for tp, offset in self._done.items() if tp in assigned}
        if not self._done:
            self._metrics.commit_confirmed(nothing_due=True)
        self._router.parked.forget()
        self._regrouping = False
        self._log.info("partitions assigned", action="partitions.assigned", count=len(assigned))

    async def _stop(self) -> None:
        """Stop in order: finish lanes within the drain time, commit, leave the group."""
        # 1. polling stopped when the loop ended; 2. finish what runs
        cancelled = await self._lanes.drain(self._limits.drain_s)
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S):
                # 3. commit the watermark
                await self._commit()
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                # 4. leave the group
                await self._consumer.stop()
        self._log.info("consumer stopped", action="consumer.stopped", cancelled=cancelled)


def record_of(raw: ConsumerRecord, *, prefix: str) -> Record:
    """Aiokafka's record as ours; the topic without its prefix."""
    return Record(
        topic=raw.topic.removeprefix(prefix),
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key,
        value=raw.value,
        headers=tuple(raw.headers),
        timestamp_ms=raw.timestamp,
    )
