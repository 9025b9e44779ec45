"""Stores the projection's offsets, in the transaction of the records that were read.

`advance` is a compare-and-set: if another consumer has moved the offset, nothing changes and the
whole batch is rolled back.
"""

from collections.abc import Sequence
from datetime import datetime

from services.api.database import Connection


async def begin_epoch(connection: Connection, epoch: str, *, now: datetime) -> bool:
    """Store a new epoch of the log; return True once per epoch."""
    row = await connection.fetchrow(
        "INSERT INTO epochs (epoch, started_at) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1",
        epoch,
        now,
    )
    return row is not None


async def stored(
    connection: Connection, epoch: str, partitions: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], int]:
    """Return the next offset of each partition; a new partition starts at 0."""
    topics, numbers = [topic for topic, _ in partitions], [number for _, number in partitions]
    await connection.execute(
        """
        INSERT INTO projection_offsets (epoch, topic, partition, next_offset)
        SELECT $1, topic, partition, 0
        FROM unnest($2::text[], $3::integer[]) AS given (topic, partition)
        ORDER BY topic, partition
        ON CONFLICT DO NOTHING
        """,
        epoch,
        topics,
        numbers,
    )
    rows = await connection.fetch(
        """
        SELECT topic, partition, next_offset FROM projection_offsets
        JOIN unnest($2::text[], $3::integer[]) AS given (topic, partition) USING (topic, partition)
        WHERE epoch = $1
        """,
        epoch,
        topics,
        numbers,
    )
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def advance(
    connection: Connection, epoch: str, partition: tuple[str, int], *, start: int, end: int
) -> bool:
    """Move a partition from `start` to `end`; return False if it is not at `start`."""
    moved = await connection.fetchval(
        """
        UPDATE projection_offsets SET next_offset = $5
        WHERE epoch = $1 AND topic = $2 AND partition = $3 AND next_offset = $4
        RETURNING true
        """,
        epoch,
        *partition,
        start,
        end,
    )
    return bool(moved)
