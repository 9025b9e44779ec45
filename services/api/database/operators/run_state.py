"""Standing: how far runs have come, for whoever wants to say a part of them again.

I/O: PostgreSQL, on the connection handed in.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.api.database import Connection
from services.api.domain.run_view import UNFINISHED, RunStatus

LOCK_REPLAY = 0x5E60_0004


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run."""

    status: RunStatus
    has_track: bool
    has_video: bool
    stored_scenes: frozenset[int]  #: scenes whose music lies in the store, by index

    @property
    def is_running(self) -> bool:
        """Whether a service may be working on it."""
        return self.status in UNFINISHED


async def try_replay_lock(connection: Connection) -> bool:
    """Whether this session is now the one that replays; it is until it ends."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_REPLAY))


async def for_runs(
    connection: Connection, asked: Collection[tuple[str, int]]
) -> Mapping[tuple[str, int], RunState]:
    """Those of `asked` (job and run) that there are."""
    rows = await connection.fetch(
        _STANDING
        + """
        JOIN unnest($1::text[], $2::integer[]) AS asked(job_id, run)
            ON (r.job_id, r.run) = (asked.job_id, asked.run)
        """,
        [job_id for job_id, _ in asked],
        [run for _, run in asked],
    )
    return {(row["job_id"], row["run"]): _run_state(row) for row in rows}


async def for_job(connection: Connection, job_id: str) -> Mapping[int, RunState]:
    """Every run of a job, the first one first."""
    rows = await connection.fetch(_STANDING + "WHERE r.job_id = $1 ORDER BY r.run", job_id)
    return {row["run"]: _run_state(row) for row in rows}


async def created_at(connection: Connection, job_id: str) -> datetime | None:
    """When a job became known; None: it is not."""
    found: datetime | None = await connection.fetchval(
        "SELECT created_at FROM jobs WHERE job_id = $1", job_id
    )
    return found


async def existing_jobs(connection: Connection, job_ids: Collection[str]) -> frozenset[str]:
    """Those of `job_ids` that there are."""
    rows = await connection.fetch(
        "SELECT job_id FROM jobs WHERE job_id = ANY($1::text[])", list(job_ids)
    )
    return frozenset(row["job_id"] for row in rows)


_STANDING = """
    SELECT r.job_id, r.run, r.status, r.track IS NOT NULL AS has_track,
        r.muxed IS NOT NULL AS has_video,
        ARRAY(SELECT s.scene_index FROM scenes s WHERE s.job_id = r.job_id
              AND s.run = r.run AND s.object_key IS NOT NULL) AS made
    FROM runs r
"""


def _run_state(row: asyncpg.Record) -> RunState:
    return RunState(
        status=RunStatus(row["status"]),
        has_track=row["has_track"],
        has_video=row["has_video"],
        stored_scenes=frozenset(row["made"]),
    )
