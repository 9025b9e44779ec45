"""The transactional outbox: records to publish, written with the change they report.

Ids rise in the order of insertion. A job's records are inserted under the lock on its row, so a
later transaction of the same job gets its ids after the earlier one has committed: per key the
order of ids is the order of commits, and reading by id keeps that order.
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
class OutboxRecord:
    """A record to publish; `topic` is without prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


async def add(connection: Connection, records: Sequence[OutboxRecord], *, now: datetime) -> None:
    """Insert records in order and notify the relay on commit."""
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
    """Insert events in order; they carry the current trace context."""
    records = [encode(event, source="api", now=now, traceparent=traceparent) for event in events]
    outbox_records = [
        OutboxRecord(
            topic=record.topic,
            key=record.key,
            value=record.value,
            headers=with_trace_context(record.headers),
        )
        for record in records
    ]
    await add(connection, outbox_records, now=now)


async def try_relay_lock(connection: Connection) -> bool:
    """Return whether this session now holds the relay lock, until it closes."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_RELAY))


async def oldest(connection: Connection, *, count: int) -> list[tuple[int, OutboxRecord]]:
    """Return the oldest records with their ids."""
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
            OutboxRecord(
                topic=row["topic"],
                key=row["key"],
                value=row["value"],
                headers=tuple(zip(row["header_names"], row["header_values"], strict=True)),
            ),
        )
        for row in rows
    ]


async def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete published records."""
    await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", ids)
