"""Lists jobs by their newest run, newest first, one page at a time.

Jobs are ordered by the start of their newest run; a job without a run is `pending` and ordered by
its creation. Each status is read from its own range of one index, so a page takes equally long
among ten jobs and a million. A newest run is never superseded.

I/O: PostgreSQL, on the given connection.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from services.api.database import Connection
from services.api.domain.run_view import RunStatus

PENDING = "pending"  #: a job without a run
#: every status that a listed job can have
LISTED: tuple[str, ...] = (
    PENDING,
    *(status.value for status in RunStatus if status is not RunStatus.SUPERSEDED),
)
_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPosition:
    """Position of a job in the list."""

    at: datetime  #: start of its newest run, else creation of the job
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """One job of the list, with its newest run."""

    job_id: str
    run: int  #: 0: no run
    status: str
    at: datetime  #: start of the run, else creation of the job
    generated_at: datetime | None  #: when the first track was merged
    scenes_done: int
    scene_count: int  #: 0: unknown
    cost_usd: float | None  #: None: unknown
    saved_usd: float | None
    error: str | None  #: reason of the failure or the cancellation
    waits: str | None  #: why a scene waits for the provider


async def page(
    connection: Connection,
    statuses: Collection[str],
    *,
    after: ListPosition | None = None,
    since: datetime | None = None,
    only_waiting: bool = False,
    count: int,
) -> Sequence[JobSummary]:
    """Return the newest `count` jobs of these statuses after `after`, started since `since`.

    `only_waiting`: only jobs with a scene that waits for its provider.
    """
    runs = sorted(set(statuses) - {PENDING})
    waiting = f"AND {_WAITING}" if only_waiting else ""
    rows = await connection.fetch(
        _PAGE.format(waiting=waiting),
        runs,
        after.at if after else _END,
        after.job_id if after else "",
        since or datetime.min.replace(tzinfo=UTC),
        count,
        PENDING in statuses and not only_waiting,
    )
    return [_summary(row) for row in rows]


async def oldest(
    connection: Connection, statuses: Collection[str], *, count: int
) -> Sequence[JobSummary]:
    """Return the `count` jobs of these statuses with the oldest newest run."""
    rows = await connection.fetch(_OLDEST, sorted(statuses), count)
    return [_summary(row) for row in rows]


async def position_of(connection: Connection, job_id: str) -> ListPosition | None:
    """Return the position of a job; None if there is no such job."""
    row = await connection.fetchrow(
        """
        SELECT coalesce(r.started_at, j.created_at) AS at, j.job_id
        FROM jobs j LEFT JOIN runs r USING (job_id, run) WHERE j.job_id = $1
        """,
        job_id,
    )
    return None if row is None else ListPosition(**row)


_WAITING = """
    EXISTS (SELECT FROM scenes d WHERE d.job_id = r.job_id AND d.run = r.run
            AND d.delay IS NOT NULL AND d.state = 'waiting')
"""
_NEWEST = "EXISTS (SELECT FROM jobs j WHERE j.job_id = r.job_id AND j.run = r.run)"
_WITH_SCENES = """
    SELECT listed.*, s.scenes_done, s.cost_usd, s.saved_usd, s.waits
    FROM listed LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = 'done') AS scenes_done, sum(cost_usd) AS cost_usd,
            sum(saved_usd) AS saved_usd,
            (array_agg(delay->>'reason' ORDER BY scene_index)
                FILTER (WHERE delay IS NOT NULL AND state = 'waiting'))[1] AS waits
        FROM scenes WHERE scenes.job_id = listed.job_id AND scenes.run = listed.run
    ) s ON true
"""
_COLUMNS = """
    r.job_id, r.run, r.status, r.started_at AS at, r.generated_at, r.scene_count,
    CASE r.status WHEN 'failed' THEN r.failure->>'message'
                  WHEN 'cancelled' THEN r.cancelled->>'reason' END AS error
"""
_PAGE = f"""
    WITH listed AS (
        SELECT * FROM (
            (SELECT {_COLUMNS}
             FROM unnest($1::text[]) AS wanted (status) CROSS JOIN LATERAL (
                SELECT * FROM runs r
                WHERE r.status = wanted.status AND (r.started_at, r.job_id) < ($2, $3)
                    AND r.started_at >= $4 AND {_NEWEST} {{waiting}}
                ORDER BY r.started_at DESC, r.job_id DESC LIMIT $5
             ) r)
            UNION ALL
            (SELECT job_id, 0, '{PENDING}', created_at, NULL, 0, NULL FROM jobs j
             WHERE $6 AND j.run = 0 AND (j.created_at, j.job_id) < ($2, $3)
                AND j.created_at >= $4
             ORDER BY j.created_at DESC, j.job_id DESC LIMIT $5)
        ) every ORDER BY at DESC, job_id DESC LIMIT $5
    ) {_WITH_SCENES} ORDER BY at DESC, job_id DESC
"""  # noqa: S608 - constants of this module
_OLDEST = f"""
    WITH listed AS (
        SELECT {_COLUMNS}
        FROM unnest($1::text[]) AS wanted (status) CROSS JOIN LATERAL (
            SELECT * FROM runs r WHERE r.status = wanted.status AND {_NEWEST}
            ORDER BY r.started_at, r.job_id LIMIT $2
        ) r ORDER BY at, job_id LIMIT $2
    ) {_WITH_SCENES} ORDER BY at, job_id
"""  # noqa: S608 - constants of this module


def _summary(row: asyncpg.Record) -> JobSummary:
    return JobSummary(**row)
