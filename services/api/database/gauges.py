"""Figures: how much waits and how old it is, at a price that does not grow with the tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection
from services.api.domain.run_view import RunStatus

COUNTED_MAX = 10_000  # of the outbox: beyond it the number tells nobody anything new


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """What waits for Kafka."""

    records: int  #: at most `COUNTED_MAX`
    oldest_at: datetime | None  #: None: nothing waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """Runs that are not done."""

    by_status: Mapping[RunStatus, int]
    oldest_at: datetime | None  #: None: there is none


async def outbox(connection: Connection) -> Outbox:
    """What the outbox holds."""
    row = await connection.fetchrow(
        """
        SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS counted) AS records,
            (SELECT created_at FROM outbox ORDER BY id LIMIT 1) AS oldest_at
        """,
        COUNTED_MAX,
    )
    assert row is not None, "a row without a table"
    return Outbox(records=row["records"], oldest_at=row["oldest_at"])


async def unfinished_runs(connection: Connection) -> Unfinished:
    """How many runs stand where; the words are those of the index `runs_unfinished`."""
    rows = await connection.fetch(
        """
        SELECT status, count(*) AS runs, min(started_at) AS oldest_at FROM runs
        WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded')
        GROUP BY status
        """
    )
    return Unfinished(
        by_status={RunStatus(row["status"]): row["runs"] for row in rows},
        oldest_at=min((row["oldest_at"] for row in rows), default=None),
    )
