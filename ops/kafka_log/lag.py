"""Lag: the command that says how far each service is behind, in records and in seconds.

The age is that of the oldest record nobody has finished: a lane that waits for its provider shows
as one record and many seconds. How far the api is, PostgreSQL says; of the others the group does.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from ops.cli.exit_codes import print_json, report_errors
from ops.cli.operator import Operator, run_with_operator
from ops.cli.options import DataDir, Json
from services.api.operators import rebuild
from shared.contract.events import JobCancelled, PredictionEnded
from shared.contract.topics import EVENT_TOPICS
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader

API, GENERATOR = "api", "generator"
#: the generator hears these outside its group, from now on: there is nothing to be behind of
HEARD = frozenset({JobCancelled.kind, PredictionEnded.kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far one service is behind on one topic."""

    service: str
    topic: str
    records: int  #: offsets that are not committed
    seconds: float  #: age of the oldest of them; 0.0: there is none
    partitions_behind: int


def lag(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Say how far each service is behind on each topic, in records and in seconds."""
    with report_errors(as_json=as_json):
        found = run_with_operator(_lag, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json({"lag": [asdict(one) for one in found]})
            return
        table = Table("service", "topic", "records", "seconds", "partitions behind", box=None)
        for one in found:
            table.add_row(
                one.service,
                one.topic,
                str(one.records),
                f"{one.seconds:.1f}",
                str(one.partitions_behind),
            )
        Console(width=120).print(table)


async def _lag(operator: Operator) -> list[Lag]:
    projected = await projection(operator)
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        return await lags(operator, reader, projected)


async def projection(operator: Operator) -> Mapping[tuple[str, int], int]:
    """How far the api has read the log, as PostgreSQL says."""
    async with operator.database.connection() as connection:
        epoch = await rebuild.newest_epoch(connection) or operator.kafka.epoch
        return await rebuild.stored_positions(connection, epoch, hold=False)


async def lags(
    operator: Operator, reader: LogReader, projected: Mapping[tuple[str, int], int] | None
) -> list[Lag]:
    """How far each service is behind on each topic; `projected` None: nobody knows of the api."""
    found = []
    every = await reader.ranges_of([topic.name for topic in EVENT_TOPICS])
    for topic in EVENT_TOPICS:
        spans = every[topic.name]
        if not spans:
            continue  # not there yet: nobody is behind
        for service in topic.read_by:
            if service == GENERATOR and topic.name in HEARD:
                continue
            standing: Mapping[tuple[str, int], int]
            if service != API:
                standing = await reader.committed(f"segue-{service}", spans)
            elif projected is not None:
                standing = projected
            else:
                continue
            found.append(await _of(operator, reader, service, spans, standing))
    return sorted(found, key=lambda one: (one.service, one.topic))


async def _of(
    operator: Operator,
    reader: LogReader,
    service: str,
    spans: list[OffsetRange],
    standing: Mapping[tuple[str, int], int],
) -> Lag:
    """One service on the partitions of one topic."""
    prefix, now = operator.kafka.topic_prefix, operator.clock.now()
    records, behind, oldest = 0, 0, now
    for span in spans:
        rest = span.since(standing.get((prefix + span.topic, span.partition), 0))
        if rest.length:
            records, behind = records + rest.length, behind + 1
            oldest = min(oldest, await _first_of(reader, rest) or now)
    return Lag(
        service=service,
        topic=spans[0].topic,
        records=records,
        seconds=round((now - oldest).total_seconds(), 1),
        partitions_behind=behind,
    )


async def _first_of(reader: LogReader, span: OffsetRange) -> datetime | None:
    """The moment of the first record of `span`."""
    async for records in reader.read(span):
        return datetime.fromtimestamp((records[0].timestamp_ms or 0) / 1000, UTC)
    return None
