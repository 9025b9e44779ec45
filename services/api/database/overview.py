"""Queries for `segue watch`: runs by status, waiting scenes, outbox size and costs.

`current_counts` is cheap enough for every second; `cost_totals` scans every ended run. A day is a
UTC day; its cost is the cost of the runs started on it.

I/O: PostgreSQL, on the given connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection
from services.api.domain.run_view import UNFINISHED, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentCounts:
    """Counts of the current moment."""

    stages: Mapping[str, int]  #: unfinished runs by status
    waiting_scenes: int  #: scenes that wait for the provider
    waiting_reason: str | None  #: of the scene that waits longest
    outbox: int  #: records to publish
    outbox_since: datetime | None  #: of the oldest of them
    uploads: int = 0  #: that no job references
    upload_bytes: int = 0  #: their size


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTotals:
    """Ended runs and their cost."""

    ended_today: Mapping[str, int]  #: ended runs of today, by status
    ended: Mapping[str, int]  #: all ended runs, by status
    spent_today_usd: float
    saved_today_usd: float
    spent_usd: float


async def current_counts(connection: Connection) -> CurrentCounts:
    """Return the current counts."""
    # the condition of the partial index `runs_unfinished`
    rows = await connection.fetch(
        "SELECT status, count(*) AS runs FROM runs "
        "WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded') GROUP BY status"
    )
    counts = {row["status"]: row["runs"] for row in rows}
    row = await connection.fetchrow(
        """
        SELECT waiting.*, outbox.*, unreferenced.* FROM (
            SELECT count(*) AS waiting_scenes,
                (array_agg(delay->>'reason' ORDER BY delay->>'since'))[1] AS waiting_reason
            FROM scenes s JOIN runs r USING (job_id, run)
            WHERE s.delay IS NOT NULL AND s.state = 'waiting' AND r.status = ANY($1::text[])
        ) waiting, (
            SELECT count(*) AS outbox, min(created_at) AS outbox_since FROM outbox
        ) outbox, (
            SELECT count(*) AS uploads, coalesce(sum(size_bytes), 0)::bigint AS upload_bytes
            FROM uploads WHERE NOT is_referenced
        ) unreferenced
        """,
        sorted(UNFINISHED),
    )
    assert row is not None, "an aggregate returns a row"
    stages = [status.value for status in RunStatus if status in UNFINISHED]
    return CurrentCounts(stages={name: counts.get(name, 0) for name in stages}, **row)


async def cost_totals(connection: Connection, *, today: datetime) -> CostTotals:
    """Return ended runs and costs since `today`, and in total."""
    ended = await connection.fetch(
        """
        SELECT status, count(*) AS runs, count(*) FILTER (WHERE started_at >= $2) AS today
        FROM runs WHERE status = ANY($1::text[]) GROUP BY status
        """,
        _ENDED,
        today,
    )
    row = await connection.fetchrow(
        """
        SELECT coalesce(sum(cost_usd), 0) AS spent_today_usd,
            coalesce(sum(saved_usd), 0) AS saved_today_usd,
            (SELECT coalesce(sum(cost_usd), 0) FROM scenes WHERE cost_usd > 0) AS spent_usd
        FROM runs r JOIN scenes s USING (job_id, run)
        WHERE r.status = ANY($1::text[]) AND r.started_at >= $2
        """,
        [status.value for status in RunStatus],
        today,
    )
    assert row is not None, "an aggregate returns a row"
    return CostTotals(
        ended={row["status"]: row["runs"] for row in ended},
        ended_today={row["status"]: row["today"] for row in ended},
        **row,
    )


_ENDED = [
    status.value
    for status in RunStatus
    if status not in UNFINISHED and status is not RunStatus.SUPERSEDED
]
