"""Driver: Faust's app and its Kafka transport, with the settings and habits that are safe.

Each habit that is changed here cost scenes in tests (ADR-0003). `stream.py` is the only user;
nothing else knows Faust.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types.auth import CredentialsT
from typing_extensions import override

from services.generator.settings import GeneratorSettings
from shared.contract.topics import GENERATOR_GROUP
from shared.kafka.client import ssl_context
from shared.settings import KafkaSettings
from shared.telemetry.log import Logger

POLL_RECORDS_MAX = 100
STALL_S = 20.0  # a table's changelog is read in less, record by record


def build_faust(settings: GeneratorSettings) -> faust.App:
    """The Faust app, with the settings that its rules were proven with (ADR-0003)."""
    kafka = settings.kafka
    app = faust.App(
        kafka.topic_prefix + GENERATOR_GROUP,
        broker=f"kafka://{kafka.bootstrap_servers.replace(',', ';')}",
        broker_credentials=_credentials(kafka),
        store="memory://",
        processing_guarantee="at_least_once",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=_buffer_max(kafka.partitions),
        stream_processing_timeout=1200,
        broker_commit_interval=0.5,
        broker_commit_every=100,
        broker_max_poll_records=POLL_RECORDS_MAX,
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


def _buffer_max(partitions: int) -> int:
    """Records between the fetcher and an agent.

    At four fifths Faust stops fetching a partition, after one poll more; an agent that is full
    to the brim stops every topic, so that cancellations would wait behind the scenes they end.
    """
    return 5 * POLL_RECORDS_MAX * (partitions + 1)


def _credentials(kafka: KafkaSettings) -> CredentialsT | None:
    """What `shared/kafka/client.py` tells aiokafka, in Faust's words; None: PLAINTEXT."""
    context = ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


class _Thread(driver.AIOKafkaConsumerThread):
    """Waits for records as long as the settings say, and gives back what came too late.

    Faust fixes the wait at 1.5 s, and throws away what a fetch brings after a rebalance.
    """

    @override
    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        consumer = self._ensure_consumer()
        return await self.call_thread(
            self._take,
            consumer,
            active_partitions,
            self._stops(),
            timeout=timeout,
            max_records=consumer._max_poll_records,  # noqa: SLF001 - as Faust's own does
        )

    def _stops(self) -> int:
        owner: Any = self.consumer
        stops: int = owner.stops
        return stops

    async def _take(
        self, consumer: Any, active_partitions: Any, stops: int, **limits: Any
    ) -> Mapping[Any, list[Any]]:
        """Records of partitions that were active, if the flow was not stopped meanwhile.

        A rebalance seeks while a fetch of before is under way. It takes what was sought, and
        nobody wants it: a changelog would never be read to its end, and a stream without a
        committed offset would go on behind it.
        """
        taken = await super()._fetch_records(consumer, active_partitions, **limits)
        if self._stops() == stops:
            return taken
        for partition in set(taken) & set(consumer.assignment()):
            consumer.seek(partition, taken[partition][0].offset)
        return {}

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
        self.stops = 0  #: how often the flow was stopped: by every rebalance

    @override
    def stop_flow(self) -> None:
        super().stop_flow()
        self.stops += 1

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
    async def _commit(self, offsets: Any) -> bool:
        confirmed: bool = await super()._commit(offsets)
        transport: Any = self.transport
        transport.committed(confirmed)
        return confirmed

    @override
    def _new_offset(self, tp: Any) -> int | None:
        """The watermark of the lanes; Faust's own count also takes what it skipped."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        self._gap.pop(tp, None)
        transport: Any = self.transport
        watermark: int | None = transport.watermarks.pop(tp, None)
        return watermark


class Transport(driver.Transport):
    """Uses the consumer above; `SceneStream` says how long to wait and what may be committed."""

    Consumer = _Consumer  # type: ignore[mutable-override]  # as Faust's own drivers do
    fetch_max_wait_ms: int
    watermarks: dict[Any, int]
    committed: Callable[[bool], None]  #: hears of every commit, and whether Kafka confirmed it


async def mind_recovery(app: faust.App, log: Logger) -> None:
    """Begin the recovery of a table again when it makes no way for `STALL_S`; never ends.

    Faust waits without a deadline for a changelog's last record, and while it waits no scene
    of its partitions is made. Whatever kept that record away, the second reading seeks anew.
    """
    tables: Any = app.tables
    recovery = tables.recovery
    loop = asyncio.get_running_loop()
    before: dict[Any, int] | None = None
    since = loop.time()
    while True:
        await asyncio.sleep(STALL_S / 10)
        consumer: Any = app.consumer
        is_reading = recovery.in_recovery and consumer.flow_active
        read = dict(recovery.active_offsets) if is_reading else None
        if read is None or read != before:
            before, since = read, loop.time()
        elif loop.time() - since >= STALL_S:
            log.warning(
                "table recovery restarted", action="table.recovery_restarted", after_s=STALL_S
            )
            recovery.signal_recovery_start.set()
            since = loop.time()
