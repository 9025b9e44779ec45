"""Driver: Faust's app and its Kafka transport, with the settings and habits that are safe.

Each habit that is changed here cost scenes in tests (ADR-0003). `stream.py` is the only user;
nothing else knows Faust.
"""

from collections.abc import Callable
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types.auth import CredentialsT
from typing_extensions import override

from services.generator.settings import GeneratorSettings
from shared.kafka.security import tls
from shared.settings import KafkaSettings
from shared.topics import GENERATOR_GROUP

POLL_RECORDS_MAX = 100


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
    """What `shared/kafka/security.py` tells aiokafka, in Faust's words; None: PLAINTEXT."""
    context = tls(kafka)
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


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
