"""aiokafka's fetcher, for logs that cannot be read or were cut.

`record_batches` decodes what the broker sends. Here are the errors that the broker reports instead
of records: it cannot read its log at an offset (the segment is damaged on disk), or it has no such
offset any more (retention removed it, or the topic was created again). The first is passed over
after `UNREADABLE_S`, one offset at a time; the second continues at the start of the log.

I/O: Kafka.
"""

import asyncio
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError
from aiokafka.protocol.fetch import FetchRequest

from shared.kafka.fetch import record_batches
from shared.kafka.fetch.record_batches import IsolatedRecords, UnreadableLog
from shared.telemetry.log import logger_of
from shared.telemetry.metrics import OFFSET_RESETS_TOTAL

UNREADABLE_S = 10.0  # another replica may become the leader meanwhile, with a whole log
_BACKOFF_S = 0.1
_INVALID_RECORD = 87  # aiokafka has no class for it
_UNREADABLE = frozenset({CorruptRecordException.errno, _INVALID_RECORD})


class IsolatingFetcher(Fetcher):  # type: ignore[misc]  # aiokafka is untyped
    """Fetches records; damaged batches and offsets do not stop their partition."""

    def __init__(self, client: Any, subscriptions: Any, **options: Any) -> None:
        resets = options.get("auto_offset_reset") != "none"
        super().__init__(_FetchClient(client, reports_resets=resets), subscriptions, **options)

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        has_data: bool = await super()._proc_fetch_request(assignment, node_id, request)
        for partition, result in self._records.items():
            records = getattr(result, "_partition_records", None)
            if isinstance(result, FetchResult) and isinstance(records, IsolatedRecords):
                highwater = assignment.state_value(partition).highwater or 0
                is_known = highwater >= records.next_fetch_offset
                records.end_offset = highwater if is_known else None
        return has_data


def isolate_undecodable_batches() -> None:
    """Make every consumer of this process, Faust's too, pass over what it cannot decode."""
    record_batches.install(IsolatingFetcher)


def read_to(consumer: Any, partition: Any) -> int | None:
    """Return the offset up to which an aiokafka consumer has read; None if that is unknown.

    It is behind the last record if markers of transactions follow; they are no lag.
    """
    subscription = consumer._subscription.subscription  # noqa: SLF001 - `position` would wait
    assignment = subscription and subscription.assignment
    if assignment is None or partition not in assignment.tps:
        return None
    state = assignment.state_value(partition)
    offset: int | None = state.position if state.has_valid_position else None
    return offset


class _FetchClient:
    """aiokafka's client; looks at the errors in fetch responses."""

    def __init__(self, client: Any, *, reports_resets: bool) -> None:
        self._client = client
        self._reports_resets = reports_resets
        #: where the broker cannot read its log: the offset, and since when
        self._unreadable: dict[TopicPartition, tuple[int, float]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Send a request; in a fetch response, replace offsets that cannot be read."""
        response = await self._client.send(node_id, request, **options)
        if isinstance(request, FetchRequest) and _has_errors(response):
            offsets = {
                TopicPartition(topic, partition): offset
                for topic, partitions in request.topics
                for partition, offset, _ in partitions
            }
            response.topics = [
                (topic, [self._checked(topic, entry, offsets) for entry in partitions])
                for topic, partitions in response.topics
            ]
            if self._unreadable:
                await asyncio.sleep(_BACKOFF_S)  # aiokafka would fetch again at once
        return response

    def _checked(
        self, topic: str, entry: tuple[Any, ...], offsets: dict[TopicPartition, int]
    ) -> tuple[Any, ...]:
        number, code, *rest = entry
        partition = TopicPartition(topic, number)
        if code == OffsetOutOfRangeError.errno:
            self._note_reset(partition, offsets[partition])
        if code not in _UNREADABLE:
            self._unreadable.pop(partition, None)
            return entry
        offset, now = offsets[partition], asyncio.get_running_loop().time()
        at, since = self._unreadable.get(partition, (offset, now))
        if offset not in {at, at + 1}:
            since = now
        self._unreadable[partition] = (offset, since)
        if now - since < UNREADABLE_S:
            return entry
        log = UnreadableLog(f"the broker cannot read its log there (error {code})")
        return (number, 0, max(rest[0], offset + 1), *rest[1:-1], log)

    def _note_reset(self, partition: TopicPartition, offset: int) -> None:
        if not offset or not self._reports_resets:
            return  # nothing was read before, or the reader reports it
        service = self._client._client_id.removeprefix("segue-")  # noqa: SLF001 - no public name
        OFFSET_RESETS_TOTAL.labels(service, partition.topic).inc()
        logger_of(service).error(
            "offset not in the log; reading from its start",
            action="kafka.offset_reset",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
        )


def _has_errors(response: Any) -> bool:
    return any(entry[1] for _, partitions in response.topics for entry in partitions)
