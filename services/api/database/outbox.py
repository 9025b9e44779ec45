"""Outbox: records that are to be on Kafka, written in the transaction of what they speak of.

Ids rise in the order of insertion. A job's rows are written under the lock on its row, so a
later transaction of the same job takes its ids only after the earlier one has committed: per
key the order of ids is the order of commits, and reading by id never overtakes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.api.database import OUTBOX_CHANNEL, Connection, storable
from shared.contract.events import Event
from shared.kafka.codec import Headers, encode
from shared.kafka.tracing import with_trace_context

LOCK_RELAY = 0x5E60_0002


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A record that waits for Kafka; `topic` without prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


async def add(connection: Connection, records: Sequence[Waiting], *, now: datetime) -> None:
    """Put records in, in their order, and wake the relay when this is committed."""
    await connection.executemany(
        """
        INSERT INTO outbox (topic, key, value, header_names, header_values, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        [
            (
                record.topic,
                record.key,
                record.value,
                storable([name for name, _ in record.headers]),
                [value for _, value in record.headers],
                now,
            )
            for record in records
        ],
    )
    await connection.execute("SELECT pg_notify($1, '')", OUTBOX_CHANNEL)


async def add_events(
    connection: Connection,
    events: Iterable[Event],
    *,
    now: datetime,
    traceparent: str | None = None,
) -> None:
    """Put events in, in their order; they belong to the trace of what goes on."""
    records = [encode(event, source="api", now=now, traceparent=traceparent) for event in events]
    waiting = [
        Waiting(
            topic=one.topic, key=one.key, value=one.value, headers=with_trace_context(one.headers)
        )
        for one in records
    ]
    await add(connection, waiting, now=now)


async def try_relay_lock(connection: Connection) -> bool:
    """Whether this session is now the one relay; it is until it ends."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_RELAY))


async def oldest(connection: Connection, *, count: int) -> list[tuple[int, Waiting]]:
    """The next records with their ids, oldest first."""
    rows = await connection.fetch(
        """
        SELECT id, topic, key, value, header_names, header_values
        FROM outbox ORDER BY id LIMIT $1
        """,
        count,
    )
    return [
        (
            row["id"],
            Waiting(
                topic=row["topic"],
                key=row["key"],
                value=row["value"],
                headers=tuple(zip(row["header_names"], row["header_values"], strict=True)),
            ),
        )
        for row in rows
    ]


async def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Forget records that Kafka has."""
    await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", ids)
