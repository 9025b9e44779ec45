"""Overview: how many runs stand where, and what was spent: the figures of `segue watch`.

What can be asked every second is in `now`; what has to look at every run that ended is in `bill`,
for less often where there are many. A day is one of UTC; what was spent on it is what the runs
cost that began on it.

I/O: PostgreSQL, on the connection handed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection
from services.api.domain.run_view import UNFINISHED, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentCounts:
    """What is asked often."""

    stages: Mapping[str, int]  #: unfinished runs by status
    waiting_scenes: int  #: they wait for the provider
    waiting_reason: str | None  #: of the one that waits longest
    outbox: int  #: records that still are to be published
    outbox_since: datetime | None  #: of the oldest of them


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTotals:
    """What ended and what it cost: it takes as long as there is much of it."""

    ended_today: Mapping[str, int]  #: runs of today that ended, by status
    ended: Mapping[str, int]  #: the same, of all runs
    spent_today_usd: float
    saved_today_usd: float
    spent_usd: float


async def current_counts(connection: Connection) -> CurrentCounts:
    """The figures of this moment."""
    # in the words of the index `runs_unfinished`, which has these rows alone
    rows = await connection.fetch(
        "SELECT status, count(*) AS runs FROM runs "
        "WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded') GROUP BY status"
    )
    counts = {one["status"]: one["runs"] for one in rows}
    row = await connection.fetchrow(
        """
        SELECT waiting.*, outbox.* FROM (
            SELECT count(*) AS waiting_scenes,
                (array_agg(delay->>'reason' ORDER BY delay->>'since'))[1] AS waiting_reason
            FROM scenes s JOIN runs r USING (job_id, run)
            WHERE s.delay IS NOT NULL AND s.state = 'waiting' AND r.status = ANY($1::text[])
        ) waiting, (
            SELECT count(*) AS outbox, min(created_at) AS outbox_since FROM outbox
        ) outbox
        """,
        sorted(UNFINISHED),
    )
    assert row is not None, "an aggregate has a row"
    stages = [status.value for status in RunStatus if status in UNFINISHED]
    return CurrentCounts(stages={name: counts.get(name, 0) for name in stages}, **row)


async def cost_totals(connection: Connection, *, today: datetime) -> CostTotals:
    """What ended and was spent since `today` began, and in all."""
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
    assert row is not None, "an aggregate has a row"
    return CostTotals(
        ended={one["status"]: one["runs"] for one in ended},
        ended_today={one["status"]: one["today"] for one in ended},
        **row,
    )


_ENDED = [
    status.value
    for status in RunStatus
    if status not in UNFINISHED and status is not RunStatus.SUPERSEDED
]
