"""The lag command: reports how far each service is behind, in records and in seconds.

The age is that of the oldest uncommitted record: a lane that waits for its provider shows as one
record and many seconds. The api's position is in PostgreSQL, the others' in their consumer group.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from ops.cli.layout import Listing
from ops.cli.operator import Operator, operator_command
from ops.cli.options import DataDir, Json
from services.api.operators import rebuild
from shared.contract.events import JobCancelled, PredictionEnded
from shared.contract.topics import EVENT_TOPICS
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader

API, GENERATOR = "api", "generator"
#: the generator reads these without its group, from the end on: it has no lag there
UNCOMMITTED = frozenset({JobCancelled.kind, PredictionEnded.kind})
COLUMNS = ("service", "topic", "records", "seconds", "partitions behind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far one service is behind on one topic."""

    service: str
    topic: str
    records: int  #: offsets that are not committed
    seconds: float  #: age of the oldest of them; 0.0 if there is none
    partitions_behind: int


def lag(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show how far each service is behind on each topic, in records and in seconds."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        command.run(
            _lag,
            lines=lag_table,
            document=lambda lags: {"lag": [asdict(row) for row in lags]},
        )


def lag_table(lags: Sequence[Lag]) -> Iterator[Listing]:
    """Yield the lag as a table."""
    table = Listing(*COLUMNS, right=set(COLUMNS[2:]))
    for row in lags:
        table.add_row(
            row.service,
            row.topic,
            str(row.records),
            f"{row.seconds:.1f}",
            str(row.partitions_behind),
        )
    yield table


async def _lag(operator: Operator) -> list[Lag]:
    projected = await projection_positions(operator)
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        return await service_lags(operator, reader, projected)


async def projection_positions(operator: Operator) -> Mapping[tuple[str, int], int]:
    """Return the api's positions in the log, as stored in PostgreSQL."""
    async with operator.database.connection() as connection:
        epoch = await rebuild.newest_epoch(connection) or operator.kafka.epoch
        return await rebuild.stored_positions(connection, epoch, hold=False)


async def service_lags(
    operator: Operator, reader: LogReader, projected: Mapping[tuple[str, int], int] | None
) -> list[Lag]:
    """Return the lag of each service and topic; without `projected`, not that of the api."""
    lags = []
    stored = await reader.ranges_of([topic.name for topic in EVENT_TOPICS])
    for topic in EVENT_TOPICS:
        ranges = stored[topic.name]
        if not ranges:
            continue  # the topic does not exist yet
        for service in topic.read_by:
            if service == GENERATOR and topic.name in UNCOMMITTED:
                continue
            positions: Mapping[tuple[str, int], int]
            if service != API:
                positions = await reader.committed(f"segue-{service}", ranges)
            elif projected is not None:
                positions = projected
            else:
                continue
            lags.append(await _service_lag(operator, reader, service, ranges, positions))
    return sorted(lags, key=lambda row: (row.service, row.topic))


async def _service_lag(
    operator: Operator,
    reader: LogReader,
    service: str,
    ranges: list[OffsetRange],
    positions: Mapping[tuple[str, int], int],
) -> Lag:
    """Return the lag of one service on the partitions of one topic."""
    prefix, now = operator.kafka.topic_prefix, operator.clock.now()
    records, behind, oldest = 0, 0, now
    for offsets in ranges:
        rest = offsets.since(positions.get((prefix + offsets.topic, offsets.partition), 0))
        # markers of transactions have offsets, too, and are never committed
        if rest.length and (first := await reader.first_timestamp(rest)) is not None:
            records, behind = records + rest.length, behind + 1
            oldest = min(oldest, first)
    return Lag(
        service=service,
        topic=ranges[0].topic,
        records=records,
        seconds=round((now - oldest).total_seconds(), 1),
        partitions_behind=behind,
    )
