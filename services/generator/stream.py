"""Stream: the generator's records and state, and the only file that knows Faust.

Faust serves keyed state: two agents, and one table with its changelog. Three habits make it safe
(ADR-0003; each has its test):

- Lanes, not the stream, run scenes; the agent only hands records over. What is committed is the
  lanes' watermark: Faust 0.15.3 commits past unfinished messages and past skipped ones.
- The table is written by an awaited changelog record first, then in memory; it needs no
  current event, and nothing is acked before the broker has the state.
- A rebalance suspends the lanes; what came back goes on, what went elsewhere is cancelled.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from typing_extensions import override

from services.generator.continuation import Continuation
from services.generator.settings import GeneratorSettings
from shared.errors import RetryableError, SegueError
from shared.kafka.codec import Envelope, Record, lane_key, read
from shared.kafka.routing import Handle, Router
from shared.lanes import Lanes
from shared.telemetry.log import Logger
from shared.topics import CONTINUATIONS_TABLE, GENERATOR_GROUP

CHANGELOG_S = 30.0  # the broker confirms in milliseconds; beyond this it is away
START_S = 120.0  # recovery reads one small record per job
STOP_S = 10.0


def build_faust(settings: GeneratorSettings) -> faust.App:
    """The Faust app, with the settings that its rules were proven with (ADR-0003)."""
    kafka = settings.kafka
    app = faust.App(
        kafka.topic_prefix + GENERATOR_GROUP,
        broker=f"kafka://{kafka.bootstrap_servers.replace(',', ';')}",
        store="memory://",
        processing_guarantee="at_least_once",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=64,
        stream_processing_timeout=1200,
        broker_commit_interval=0.5,
        broker_commit_every=100,
        broker_max_poll_records=100,
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.heartbeat_s,
        broker_rebalance_timeout=30,
        broker_request_timeout=max(40.0, kafka.session_timeout_s + 5),
        broker_max_poll_interval=3600,
        broker_commit_livelock_soft_timeout=1800,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger=0,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    # else it makes a folder wherever it is started; its tables are in memory
    app._create_directories = lambda: None  # type: ignore[method-assign]  # noqa: SLF001
    return app


class _Thread(driver.AIOKafkaConsumerThread):
    """Waits for records as long as the settings say; Faust fixes it at 1.5 s."""

    @override
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms  # noqa: SLF001 - no public way
        return consumer


class _Consumer(driver.Consumer):
    """Faust's consumer with three habits changed; each cost scenes in tests (ADR-0003)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held: set[Any] = set()

    @override
    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    @override
    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Fetch from what is active now; Faust hands its own set to another thread.

        Empty for a moment when recovery ends, it means "all" there: records are thrown away.
        """
        return await super()._getmany(set(active_partitions or ()), timeout)

    @override
    def resume_partitions(self, tps: Any) -> None:
        """Changelogs at once; streams when they were sought and the flow is on.

        What Faust fetches before that, its streams skip and ack unread.
        """
        streams = {tp for tp in tps if not self._is_changelog_tp(tp)}
        self._held |= streams
        super().resume_partitions(set(tps) - streams)

    @override
    def resume_flow(self) -> None:
        super().resume_flow()
        if self.app.flow_control.is_active():
            held, self._held = self._held & set(self.assignment()), set()
            super().resume_partitions(held)

    @override
    def _new_offset(self, tp: Any) -> int | None:
        """The watermark of the lanes; Faust's own count also takes what it skipped."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        self._gap.pop(tp, None)
        transport: Any = self.transport
        watermark: int | None = transport.watermarks.pop(tp, None)
        return watermark


class _Transport(driver.Transport):
    """Uses the consumer above; `SceneStream` says how long to wait and what may be committed."""

    Consumer = _Consumer  # type: ignore[mutable-override]  # as Faust's own drivers do
    fetch_max_wait_ms: int
    watermarks: dict[Any, int]


class TableMemory:
    """The `continuations` table as plain values."""

    def __init__(self, app: faust.App, *, partitions: int) -> None:
        self._table = app.Table(
            CONTINUATIONS_TABLE,
            key_type=str,
            value_type=bytes,  # raw: the model is the codec; Faust's own cannot read back a dict
            partitions=partitions,
        )

    def recall(self, job_id: str) -> Continuation | None:
        """The state of the job; None if nothing is known of it."""
        known = self._table.data.get(job_id)
        return None if known is None else Continuation.model_validate_json(known)

    async def keep(self, job_id: str, state: Continuation, *, partition: int) -> None:
        """Write the state on the changelog, then in memory.

        Raises:
            RetryableError: the broker did not confirm it in time.
        """
        value = state.model_dump_json().encode()
        try:
            async with asyncio.timeout(CHANGELOG_S):
                await self._table.send_changelog(partition, job_id, value)
        except Exception as error:
            raise RetryableError(f"state was not confirmed: {error!r}") from error
        self._table.data[job_id] = value


class SceneStream:
    """Hands the records of the generator's topics to lanes, and lets them go in order."""

    def __init__(self, settings: GeneratorSettings, *, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._watermarks: dict[Any, int] = {}
        self._app = build_faust(settings)
        transport = _Transport(self._app.conf.broker_consumer, self._app)
        transport.watermarks = self._watermarks
        transport.fetch_max_wait_ms = settings.kafka.fetch_max_wait_ms
        self._app.transport = transport
        self.memory = TableMemory(self._app, partitions=settings.kafka.partitions)
        self.lanes: Lanes[Any] = Lanes(self._let_go)

    def attach(
        self,
        handlers: Mapping[str, Handle],
        router: Router,
        *,
        seen: Callable[[Envelope], None],
    ) -> None:
        """Give each topic (no prefix) its handler; `seen` hears of records as they arrive."""
        for name, handle in handlers.items():
            self._agent(name, handle, router, seen)

        async def on_revoked(*_: Any, **__: Any) -> None:
            self.lanes.suspend()

        async def on_assigned(*told: Any, **_: Any) -> None:
            _app, assigned = told
            self._assigned(set(assigned))
            router.parked.forget()

        self._app.on_partitions_revoked.connect(on_revoked, weak=False)
        self._app.on_partitions_assigned.connect(on_assigned, weak=False)

    async def serve(self, stop: asyncio.Event, *, ready: asyncio.Event | None = None) -> None:
        """Work until `stop`.

        Raises:
            SegueError: Faust did not start, or stopped by itself.
            DeadLetterLimitError: too many dead letters in a row.
        """
        await self._start()
        self._log.info("generator is ready", action="service.ready")
        if ready is not None:
            ready.set()
        stopped = asyncio.create_task(stop.wait())
        crashed = asyncio.create_task(self._app._crashed.wait())  # noqa: SLF001 - no public wait
        ends: list[asyncio.Future[Any]] = [stopped, crashed, self.lanes.broken]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            crashed.cancel()
        if self.lanes.broken.done():
            self.lanes.broken.result()
        if self._app.crashed:
            reason = self._app.crash_reason
            raise SegueError(f"Faust stopped: {reason!r}") from reason

    async def stop(self) -> None:
        """Finish what runs, commit, leave the group."""
        await self.lanes.drain(self._settings.lanes.drain_s)
        async with asyncio.timeout(STOP_S):
            await self._app.stop()

    async def _start(self) -> None:
        self._app.finalize()
        try:
            async with asyncio.timeout(START_S):
                await self._app.start()
        except TimeoutError as error:
            raise SegueError(f"Faust's table did not recover in {START_S} s") from error

    def _agent(
        self, name: str, handle: Handle, router: Router, seen: Callable[[Envelope], None]
    ) -> None:
        prefix = self._settings.kafka.topic_prefix
        topic = self._app.topic(
            prefix + name,
            key_type=bytes,
            key_serializer="raw",
            value_type=bytes,
            value_serializer="raw",
            partitions=self._settings.kafka.partitions,
        )

        async def consume(stream: Any) -> None:
            async for event in stream.noack().events():
                await self.lanes.room(self._settings.lanes.in_flight_max)
                message = event.message
                received = read(_record_of(message, prefix=prefix))
                if isinstance(received, Envelope):
                    seen(received)
                self.lanes.offer(
                    slot=message.tp,
                    offset=message.offset,
                    key=lane_key(received),
                    handle=event,
                    work=lambda received=received: router.run(  # type: ignore[misc]
                        received, handle, gate=self.lanes.gate
                    ),
                )

        self._app.agent(topic, name=f"segue.{name}")(consume)

    def _let_go(self, slot: Hashable, events: list[Any]) -> None:
        """Commit up to here, in the order of the partition; the ack makes Faust look."""
        self._watermarks[slot] = events[-1].message.offset + 1
        for event in events:
            event.ack()

    def _assigned(self, assigned: set[Hashable]) -> None:
        for slot in [slot for slot in self._watermarks if slot not in assigned]:
            del self._watermarks[slot]  # somebody else's now
        for slot, records in self.lanes.resume(assigned).items():
            self._log.info("lost", action="partitions.lost", partition=str(slot), records=records)
        self._log.info("partitions assigned", action="partitions.assigned", count=len(assigned))


def _record_of(message: Any, *, prefix: str) -> Record:
    """Faust's message as ours; the topic without its prefix."""
    headers = message.headers or {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return Record(
        topic=message.topic.removeprefix(prefix),
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple((name, value) for name, value in pairs),
        timestamp_ms=int(message.timestamp * 1000) if message.timestamp else None,
    )
