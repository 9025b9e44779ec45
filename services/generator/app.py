"""App: the generator's wiring, and the only file that knows Faust.

Faust serves keyed state: one agent on `scene.requested`, one table `continuations` with its
changelog. Three habits make it safe (ADR-0003; each has its test):

- Lanes, not the stream, run scenes; the agent only hands records over. Faust sees acks in the
  order of the partition, because 0.15.3 commits past unfinished messages.
- The table is written by an awaited changelog record first, then in memory; it needs no
  current event, and nothing is acked before the broker has the state.
- A rebalance suspends the lanes; what came back goes on, what went elsewhere is cancelled.
"""

import asyncio
from collections.abc import Hashable
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from typing_extensions import override

from services.generator.continuation import Continuation
from services.generator.providers import MusicProvider
from services.generator.providers.building import build_provider
from services.generator.settings import GeneratorSettings
from services.generator.work import SceneWork, build_work
from shared.clock import Clock, SystemClock
from shared.errors import RetryableError, SegueError
from shared.events import JobCancelled, SceneRequested, Stage
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Envelope, Record, lane_key, read
from shared.kafka.producer import Publisher
from shared.kafka.routing import Handle, Router, build_router
from shared.lanes import Lanes
from shared.storage.opening import open_store
from shared.telemetry.log import Logger, logger_of
from shared.topics import CONTINUATIONS_TABLE, GENERATOR_GROUP

CHANGELOG_S = 30.0  # the broker confirms in milliseconds; beyond this it is away
START_S = 120.0  # recovery reads one small record per job
STOP_S = 10.0


def build_faust(settings: GeneratorSettings) -> faust.App:
    """The Faust app, with the settings that design rules 1 to 6 were proven with."""
    kafka = settings.kafka

    class Thread(driver.AIOKafkaConsumerThread):
        """Fetches with our own patience: Faust fixes it, and the embedded broker wakes nobody."""

        @override
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            consumer._fetch_max_wait_ms = kafka.fetch_max_wait_ms  # noqa: SLF001 - no public way
            return consumer

    class Consumer(driver.Consumer):
        """Runs the thread above."""

        @override
        def _new_consumer_thread(self) -> Any:
            return Thread(self, loop=self.loop, beacon=self.beacon)

    class Transport(driver.Transport):
        """Uses the consumer above."""

    Transport.Consumer = Consumer
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
    app.transport = Transport(app.conf.broker_consumer, app)
    return app


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
            raise RetryableError(f"state of {job_id} was not confirmed: {error!r}") from error
        self._table.data[job_id] = value


def attach(
    app: faust.App,
    *,
    settings: GeneratorSettings,
    lanes: Lanes[Any],
    router: Router,
    work: SceneWork,
    log: Logger,
) -> None:
    """Let the agents hand their records to the lanes, and the group's changes suspend them."""
    prefix = settings.kafka.topic_prefix

    async def hand_over(stream: Any, handle: Handle) -> None:
        async for event in stream.noack().events():
            await lanes.room(settings.lanes.in_flight_max)
            message = event.message
            received = read(record_of(message, prefix=prefix))
            if isinstance(received, Envelope):
                work.seen(received)
            lanes.offer(
                slot=message.tp,
                offset=message.offset,
                key=lane_key(received),
                handle=event,
                work=lambda received=received: router.run(received, handle, gate=lanes.gate),  # type: ignore[misc]
            )

    def agent(name: str, handle: Handle) -> None:
        topic = app.topic(
            prefix + name,
            key_type=bytes,
            key_serializer="raw",
            value_type=bytes,
            value_serializer="raw",
            partitions=settings.kafka.partitions,
        )

        async def consume(stream: Any) -> None:
            await hand_over(stream, handle)

        app.agent(topic, name=f"segue.{name}")(consume)

    agent(SceneRequested.kind, work.requested)
    agent(JobCancelled.kind, work.cancelled)

    async def on_revoked(*_: Any, **__: Any) -> None:
        lanes.suspend()

    async def on_assigned(*told: Any, **_: Any) -> None:
        _app, assigned = told
        for slot, count in lanes.resume(set(assigned)).items():
            log.info("partition lost", action="partitions.lost", partition=str(slot), records=count)
        log.info("partitions assigned", action="partitions.assigned", count=len(assigned))

    app.on_partitions_revoked.connect(on_revoked, weak=False)
    app.on_partitions_assigned.connect(on_assigned, weak=False)


def record_of(message: Any, *, prefix: str) -> Record:
    """Faust's message as ours; the topic without its prefix."""
    headers = message.headers or ()
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


def let_go(_slot: Hashable, events: list[Any]) -> None:
    """Ack, in the order of the partition."""
    for event in events:
        event.ack()


async def run(
    settings: GeneratorSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
    provider: MusicProvider | None = None,
) -> None:
    """Generate until `stop`; the one way up, for `__main__`, the embedded stack and the tests.

    A `provider` given here is used in place of the one that the settings name.

    Raises:
        SegueError: it could not start, or had to stop.
    """
    clock = clock or SystemClock()
    log = logger_of("generator")
    log.info("generator starts", action="service.starting", provider=settings.provider)
    await ensure_topics(settings.kafka)
    store = open_store(settings.store)
    await store.prepare()
    provider = provider or build_provider(settings.provider, store=store)
    publisher = Publisher(settings.kafka, source="generator", clock=clock)
    await publisher.start()
    lanes: Lanes[Any] = Lanes(let_go)
    router = build_router(
        service="generator",
        stage=Stage.GENERATION,
        publisher=publisher,
        store=store,
        settings=settings.lanes,
        clock=clock,
        log=log,
    )
    app = build_faust(settings)
    work = build_work(
        settings,
        store=store,
        provider=provider,
        publisher=publisher,
        memory=TableMemory(app, partitions=settings.kafka.partitions),
        gate=lanes.gate,
        clock=clock,
        log=log,
    )
    attach(app, settings=settings, lanes=lanes, router=router, work=work, log=log)
    try:
        await _serve(app, lanes, stop=stop, ready=ready, log=log)
    finally:
        # 1. finish what runs; 2. let Faust commit and leave; 3. flush; 4. let go of the rest
        log.info("generator stops", action="service.stopping")
        await lanes.drain(settings.lanes.drain_s)
        async with asyncio.timeout(STOP_S):
            await app.stop()
        await publisher.stop()
        await provider.close()
        await store.close()
        log.info("generator stopped", action="service.stopped")


async def _serve(
    app: faust.App,
    lanes: Lanes[Any],
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None,
    log: Logger,
) -> None:
    app.finalize()
    try:
        async with asyncio.timeout(START_S):
            await app.start()
    except TimeoutError as error:
        raise SegueError(f"Faust did not start, or recover its table, in {START_S} s") from error
    log.info("generator is ready", action="service.ready")
    if ready is not None:
        ready.set()
    stopped = asyncio.create_task(stop.wait())
    crashed = asyncio.create_task(app._crashed.wait())  # noqa: SLF001 - mode has no public wait
    ends: list[asyncio.Future[Any]] = [stopped, crashed, lanes.broken]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        crashed.cancel()
    if lanes.broken.done():
        lanes.broken.result()
    if app.crashed:
        raise SegueError(f"Faust stopped: {app.crash_reason!r}") from app.crash_reason
