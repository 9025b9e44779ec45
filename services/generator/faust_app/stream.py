"""Consumes the generator's topics and stores its state with Faust.

Faust provides keyed state: agents, and one table with its changelog. Three rules make it safe
(ADR-0003; each has its test):

- Lanes run the scenes; an agent only submits records to them. The committed offset comes from the
  lanes: Faust 0.15.3 commits past unfinished messages and past skipped ones.
- The table is written by an awaited changelog record first, then in memory; no record is acked
  before the broker has confirmed the state.
- A rebalance suspends the lanes; the work of partitions that come back resumes, that of lost
  partitions is cancelled.
"""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any

import faust
from pydantic import ValidationError

from services.generator.faust_app.driver import Transport, build_faust, watch_recovery
from services.generator.scene.plan import Continuation
from services.generator.settings import GeneratorSettings
from shared.clock import Clock
from shared.contract.events import SceneRequested
from shared.contract.topics import CONTINUATIONS_TABLE
from shared.errors import RetryableError, SegueError
from shared.kafka.codec import Envelope, Record, lane_key, try_decode
from shared.kafka.consumer import valid_timestamp
from shared.kafka.fetch.fetcher import read_to
from shared.kafka.handler import Handler
from shared.kafka.router import Router
from shared.processing.lanes import Lanes
from shared.processing.slots import Slots
from shared.telemetry.consumer_metrics import ConsumerMetrics, export_lane_metrics
from shared.telemetry.log import Logger
from shared.telemetry.metrics import WORK_DEDUPLICATED_TOTAL

CHANGELOG_S = 30.0  # the broker confirms in milliseconds; later it counts as unavailable
START_S = 120.0  # recovery reads one small record per job
STOP_S = 3.0  # to commit and leave the group, after the drain


class FaustContinuationTable:
    """Stores `Continuation` values in the `continuations` table."""

    def __init__(self, app: faust.App, *, partitions: int) -> None:
        self._table = app.Table(
            CONTINUATIONS_TABLE,
            key_type=str,
            value_type=bytes,  # raw: pydantic is the codec; Faust's own cannot decode a dict
            partitions=partitions,
        )

    def get(self, job_id: str) -> Continuation | None:
        """Return the state of the job; None if there is none, or none that can be read."""
        value = self._table.data.get(job_id)
        try:
            return None if value is None else Continuation.model_validate_json(value)
        except ValidationError:  # a foreign record in the changelog; the store has the scenes
            return None

    async def put(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Write the state to the changelog, then to memory.

        Raises:
            RetryableError: the broker did not confirm it in time.
        """
        value = state.model_dump_json().encode()
        try:
            async with asyncio.timeout(CHANGELOG_S):
                await self._table.send_changelog(partition, job_id, value)
        except Exception as error:
            raise RetryableError(f"the broker did not confirm the state: {error!r}") from error
        self._table.data[job_id] = value


class SceneStream:
    """Submits the records of the generator's topics to lanes, and commits them in order."""

    def __init__(self, settings: GeneratorSettings, *, clock: Clock, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._watermarks: dict[Any, int] = {}
        self._app = build_faust(settings)
        transport = Transport(self._app.conf.broker_consumer, self._app)
        transport.watermarks = self._watermarks
        transport.fetch_max_wait_ms = settings.kafka.fetch_max_wait_ms
        transport.committed = self._committed
        transport.restarted = self._restarted
        self._app.transport = transport
        self.continuations = FaustContinuationTable(self._app, partitions=settings.kafka.partitions)
        self.lanes: Lanes[Any] = Lanes(self._commit)
        self._slots: Slots | None = None
        self._metrics = ConsumerMetrics(
            service="generator",
            topics=[],
            prefix=settings.kafka.topic_prefix,
            positions=self.lanes.positions,
            end_offset=self._end_of,
            clock=clock,
        )

    def attach(
        self,
        handler: Handler,
        router: Router,
        *,
        slots: Slots,
    ) -> None:
        """Consume the topics of `handler`; `slots` bound its work and are reported in `readyz`."""
        self._slots = slots
        self._metrics.topics = list(handler.topics)
        for topic in handler.topics:
            self._agent(topic, handler, router)

        async def on_revoked(*_: Any, **__: Any) -> None:
            self.lanes.suspend()

        async def on_assigned(*args: Any, **_: Any) -> None:
            _app, assigned = args
            self._assigned(set(assigned))
            router.parked.forget()

        self._app.on_partitions_revoked.connect(on_revoked, weak=False)
        self._app.on_partitions_assigned.connect(on_assigned, weak=False)

    def figures(self) -> dict[str, int]:
        """Return the work in progress, for `readyz`."""
        return {**self.lanes.figures(), **(self._slots.figures() if self._slots else {})}

    async def serve(self, stop: asyncio.Event, *, ready: asyncio.Event | None = None) -> None:
        """Consume until `stop`.

        Raises:
            SegueError: Faust did not start, or stopped by itself.
            DeadLetterLimitError: too many dead letters in a row.
        """
        stopped = asyncio.create_task(stop.wait())
        recovery_watch = asyncio.create_task(watch_recovery(self._app, self._log))
        ends: list[asyncio.Future[Any]] = [stopped, recovery_watch, self.lanes.failure]
        in_flight_max = self._settings.lanes.in_flight_max
        try:
            if await self._start(ends):
                self._log.info("ready", action="service.ready")
                if ready is not None:
                    ready.set()
                export_lane_metrics("generator", self.lanes.figures, in_flight_max=in_flight_max)
                with self._metrics.exported():
                    await self._until_one_of(ends)
        finally:
            stopped.cancel()
            recovery_watch.cancel()
        for failed in (self.lanes.failure, recovery_watch):
            if failed.done():
                failed.result()
        if self._app.crashed:
            reason = self._app.crash_reason
            raise SegueError(f"Faust stopped: {reason!r}") from reason

    async def stop(self) -> None:
        """Drain the lanes, commit and leave the group, within bounded times."""
        await self.lanes.drain(self._settings.lanes.drain_s)
        try:
            async with asyncio.timeout(STOP_S):
                await self._app.stop()
        except TimeoutError:
            self._log.warning(
                "Faust did not stop in time",
                action="faust.stop_timed_out",
                reason=f"still running after {STOP_S:g} s",
            )

    async def _start(self, ends: Sequence[asyncio.Future[Any]]) -> bool:
        """Start Faust; return False if one of `ends` came first."""
        self._app.finalize()
        starting = asyncio.ensure_future(self._app.start())
        try:
            async with asyncio.timeout(START_S):
                await self._until_one_of([starting, *ends])
        except TimeoutError as error:
            raise SegueError(f"Faust's table did not recover in {START_S} s") from error
        finally:
            starting.cancel()
        if starting.done():
            starting.result()
        return starting.done()

    async def _until_one_of(self, ends: Sequence[asyncio.Future[Any]]) -> None:
        """Wait for the first of `ends`, or for a crash of Faust."""
        crashed = asyncio.create_task(self._app._crashed.wait())  # noqa: SLF001 - no public wait
        try:
            await asyncio.wait([crashed, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            crashed.cancel()

    def _agent(self, name: str, handler: Handler, router: Router) -> None:
        prefix = self._settings.kafka.topic_prefix
        topic = self._app.topic(
            prefix + name,
            key_type=bytes,
            key_serializer="raw",
            value_type=bytes,
            value_serializer="raw",
            partitions=self._settings.kafka.partitions,
        )

        in_flight_max = self._settings.lanes.in_flight_max
        if name != SceneRequested.kind:
            in_flight_max *= 2  # a full backlog of scenes must not block cancellations

        async def consume(stream: Any) -> None:
            async for event in stream.noack().events():
                await self.lanes.wait_for_capacity(in_flight_max)
                message = event.message
                record = _record_of(message, prefix=prefix)
                received = try_decode(record)
                if isinstance(received, Envelope):
                    handler.on_received(received)
                is_new = self.lanes.submit(
                    partition=message.tp,
                    offset=message.offset,
                    key=lane_key(received),
                    handle=event,
                    work=lambda received=received: router.run(  # type: ignore[misc]
                        received, handler, wait_until_owned=self.lanes.wait_until_owned
                    ),
                    timestamp_s=record.timestamp_s,
                )
                if not is_new:
                    WORK_DEDUPLICATED_TOTAL.labels("generator", "in_progress").inc()

        self._app.agent(topic, name=f"segue.{name}")(consume)

    def _commit(self, partition: Hashable, events: list[Any]) -> None:
        """Set the offset to commit; the ack makes Faust commit it."""
        self._watermarks[partition] = events[-1].message.offset + 1
        self._metrics.commit_due()
        for event in events:
            event.ack()

    def _committed(self, confirmed: bool) -> None:  # noqa: FBT001 - the driver's signature
        if confirmed:
            self._metrics.commit_confirmed(nothing_due=not self._watermarks)
        else:
            self._metrics.commit_failed()

    def _restarted(self, partition: Hashable) -> None:
        """Cancel the work of a partition whose log was created again."""
        self._watermarks.pop(partition, None)
        self._log.warning(
            "the log was created again; its records in work were cancelled",
            action="partitions.lost",
            partition=str(partition),
            records=self.lanes.restart(partition),
        )

    def commit_due_s(self) -> float:
        """Return the time since a commit became due without one succeeding."""
        return self._metrics.commit_due_s()

    def _end_of(self, partition: Hashable) -> int | None:
        consumer: Any = self._app.consumer
        if partition not in consumer.assignment():
            return None
        end: int | None = consumer.highwater(partition)
        position = self.lanes.positions().get(partition)
        is_idle = position is None or position.oldest_offset is None
        thread = consumer._thread  # noqa: SLF001 - Faust has no public way to the position
        if is_idle and (read_to(thread._consumer, partition) or 0) >= (end or 0):  # noqa: SLF001
            return None
        return end

    def _assigned(self, assigned: set[Hashable]) -> None:
        for partition in self._watermarks.keys() - assigned:
            del self._watermarks[partition]  # assigned to another process
        if not self._watermarks:
            self._metrics.commit_confirmed(nothing_due=True)
        for partition, records in self.lanes.resume(assigned).items():
            self._log.info(
                "work of a lost partition cancelled",
                action="partitions.lost",
                partition=str(partition),
                records=records,
            )
        self._log.info("partitions assigned", action="partitions.assigned", count=len(assigned))


def _record_of(message: Any, *, prefix: str) -> Record:
    """Convert a Faust message to a `Record`; the topic loses its prefix."""
    headers = message.headers or {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    timestamp_ms = int(message.timestamp * 1000) if message.timestamp else None
    return Record(
        topic=message.topic.removeprefix(prefix),
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple((name, value) for name, value in pairs),
        timestamp_ms=valid_timestamp(timestamp_ms),
    )
