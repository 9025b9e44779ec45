"""Builds the Faust app and its Kafka transport, with safe settings and corrected behaviour.

Every behaviour of Faust that is overridden here lost scenes in tests (ADR-0003). Used by
`stream.py` only.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types.auth import CredentialsT
from typing_extensions import override

from services.generator.settings import GeneratorSettings
from shared.contract.topics import GENERATOR_GROUP
from shared.kafka.client import METADATA_MS, READ_COMMITTED, ssl_context
from shared.kafka.codec import Undecodable
from shared.kafka.fetch.fetcher import isolate_undecodable_batches
from shared.settings import KafkaSettings
from shared.telemetry.log import Logger

POLL_RECORDS_MAX = 100
NO_STATE_KEY = b'"undecodable"'  # of a changelog record that has no state
STALL_S = 20.0  # without progress; a recovering table reads a record in less


def build_faust(settings: GeneratorSettings) -> faust.App:
    """Return the Faust app, with the settings under which ADR-0003 was tested."""
    kafka = settings.kafka
    isolate_undecodable_batches()
    app = faust.App(
        kafka.topic_prefix + GENERATOR_GROUP,
        broker=f"kafka://{kafka.bootstrap_servers.replace(',', ';')}",
        broker_client_id=GENERATOR_GROUP,
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
        consumer_metadata_max_age_ms=METADATA_MS,
        producer_acks=-1,
        producer_linger=0,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    # Faust would create a folder in the working directory; its tables are in memory
    app._create_directories = lambda: None  # type: ignore[method-assign]  # noqa: SLF001
    return app


def _buffer_max(partitions: int) -> int:
    """Return the buffer size between the fetcher and an agent, in records.

    At four fifths Faust stops fetching a partition, after one more poll; a full agent stops every
    topic, so that cancellations would wait behind the scenes they cancel.
    """
    return 5 * POLL_RECORDS_MAX * (partitions + 1)


def _credentials(kafka: KafkaSettings) -> CredentialsT | None:
    """Return Faust's credentials, as `shared/kafka/client.py` does for aiokafka."""
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
    """Fetches with the configured wait, and seeks back after a fetch that came too late.

    Faust fixes the wait at 1.5 s, and discards records fetched during a rebalance.
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
        """Return the fetched records; if the flow was stopped meanwhile, seek back and return none.

        A rebalance seeks while an older fetch is in progress. That fetch moves the position past
        records that Faust then discards: a changelog would never be read completely, and a stream
        without a committed offset would continue after them.
        """
        records = await super()._fetch_records(consumer, active_partitions, **limits)
        if self._stops() == stops:
            return records
        for partition in set(records) & set(consumer.assignment()):
            consumer.seek(partition, records[partition][0].offset)
        return {}

    @override
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms  # noqa: SLF001 - no public setter
        # Faust reads committed records only if it also writes in transactions
        consumer._isolation_level = READ_COMMITTED  # noqa: SLF001 - no public setter
        return consumer


class _Consumer(driver.Consumer):
    """Faust's consumer with three behaviours overridden; each lost scenes (ADR-0003)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held: set[Any] = set()
        self.stops = 0  #: number of times the flow was stopped; every rebalance stops it

    @override
    def stop_flow(self) -> None:
        super().stop_flow()
        self.stops += 1

    @override
    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    @override
    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Fetch from a copy of the active partitions; Faust shares its set with another thread.

        The set is empty for a moment when recovery ends, which means "all" there: records would be
        discarded.
        """
        fetched = dict(await super()._getmany(set(active_partitions or ()), timeout))
        for partition, records in fetched.items():
            if self._is_changelog_tp(partition):
                fetched[partition] = [state_record(record) for record in records]
            elif records[0].offset < (self._read_offset[partition] or 0):
                self._restart(partition)
        return fetched

    def _restart(self, partition: Any) -> None:
        """Accept offsets that begin again: the topic is another one; Faust would drop them."""
        self._read_offset[partition] = None
        transport: Any = self.transport
        transport.restarted(partition)

    @override
    def resume_partitions(self, tps: Any) -> None:
        """Resume changelogs at once, and streams after their seek, when the flow is active.

        Faust's streams would skip and ack everything fetched before that.
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
        """Return the lanes' offset to commit; Faust's own offset includes skipped records."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        self._gap.pop(tp, None)
        transport: Any = self.transport
        watermark: int | None = transport.watermarks.pop(tp, None)
        return watermark


class Transport(driver.Transport):
    """Uses the consumer above; `SceneStream` sets the fetch wait and the offsets to commit."""

    Consumer = _Consumer  # type: ignore[mutable-override]  # as Faust's own drivers do
    fetch_max_wait_ms: int
    watermarks: dict[Any, int]
    committed: Callable[[bool], None]  #: called after every commit with whether Kafka confirmed it
    restarted: Callable[[Any], None]  #: called with a partition whose offsets begin again


def state_record(record: Any) -> Any:
    """Return a changelog record; one that Faust cannot decode as the deletion of no job's state.

    It must not be left out: recovery waits for the last offset. A lost state is recovered from the
    store. Faust encodes the table's keys as JSON texts; the values are raw.
    """
    try:
        is_state = isinstance(json.loads(record.key), str)
    except (ValueError, TypeError, RecursionError):
        is_state = False
    if is_state and not isinstance(record.value, Undecodable):
        return record
    return dataclasses.replace(record, key=NO_STATE_KEY, value=None)


async def watch_recovery(app: faust.App, log: Logger) -> None:
    """Restart the recovery of a table that makes no progress for `STALL_S`; run forever.

    Faust waits without a deadline for a changelog's last record, and generates no scene of its
    partitions until then. A restarted recovery seeks again.
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
        offsets = dict(recovery.active_offsets) if is_reading else None
        if offsets is None or offsets != before:
            before, since = offsets, loop.time()
        elif loop.time() - since >= STALL_S:
            log.warning(
                "table recovery restarted", action="table.recovery_restarted", after_s=STALL_S
            )
            recovery.signal_recovery_start.set()
            since = loop.time()
