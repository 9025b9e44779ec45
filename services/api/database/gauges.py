"""Queries for the gauges: size and age of the outbox and of unfinished runs.

Their cost does not grow with the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection
from services.api.domain.run_view import RunStatus

COUNTED_MAX = 10_000  # upper limit of the outbox count


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSize:
    """Records that wait for Kafka."""

    records: int  #: at most `COUNTED_MAX`
    oldest_at: datetime | None  #: None: the outbox is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedRuns:
    """Number of unfinished runs by status, and the oldest."""

    by_status: Mapping[RunStatus, int]
    oldest_at: datetime | None  #: None: there is none


async def outbox_size(connection: Connection) -> OutboxSize:
    """Return the size of the outbox and its oldest record."""
    row = await connection.fetchrow(
        """
        SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS counted) AS records,
            (SELECT created_at FROM outbox ORDER BY id LIMIT 1) AS oldest_at
        """,
        COUNTED_MAX,
    )
    assert row is not None, "a SELECT without FROM returns a row"
    return OutboxSize(records=row["records"], oldest_at=row["oldest_at"])


async def unfinished_runs(connection: Connection) -> UnfinishedRuns:
    """Return the unfinished runs by status; the condition is that of `runs_unfinished`."""
    rows = await connection.fetch(
        """
        SELECT status, count(*) AS runs, min(started_at) AS oldest_at FROM runs
        WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded')
        GROUP BY status
        """
    )
    return UnfinishedRuns(
        by_status={RunStatus(row["status"]): row["runs"] for row in rows},
        oldest_at=min((row["oldest_at"] for row in rows), default=None),
    )
