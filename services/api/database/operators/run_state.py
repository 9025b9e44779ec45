"""Reads the state of runs for replay and history; holds the replay lock.

I/O: PostgreSQL, on the given connection.
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
    """State of one run."""

    status: RunStatus
    has_track: bool
    has_video: bool
    stored_scenes: frozenset[int]  #: scenes whose clip is stored, by index
    provider: str | None = None  #: None: its requests name none

    @property
    def is_running(self) -> bool:
        """Whether a service may be working on the run."""
        return self.status in UNFINISHED


async def try_replay_lock(connection: Connection) -> bool:
    """Return whether this session now holds the replay lock, until it closes."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_REPLAY))


async def for_runs(
    connection: Connection, keys: Collection[tuple[str, int]]
) -> Mapping[tuple[str, int], RunState]:
    """Return the state of the existing runs among `keys` (job id and run)."""
    rows = await connection.fetch(
        _STATES
        + """
        JOIN unnest($1::text[], $2::integer[]) AS wanted(job_id, run)
            ON (r.job_id, r.run) = (wanted.job_id, wanted.run)
        """,
        [job_id for job_id, _ in keys],
        [run for _, run in keys],
    )
    return {(row["job_id"], row["run"]): _run_state(row) for row in rows}


async def for_job(connection: Connection, job_id: str) -> Mapping[int, RunState]:
    """Return every run of a job, in order."""
    rows = await connection.fetch(_STATES + "WHERE r.job_id = $1 ORDER BY r.run", job_id)
    return {row["run"]: _run_state(row) for row in rows}


async def created_at(connection: Connection, job_id: str) -> datetime | None:
    """Return when a job was created; None if there is no such job."""
    moment: datetime | None = await connection.fetchval(
        "SELECT created_at FROM jobs WHERE job_id = $1", job_id
    )
    return moment


async def newest_failure(connection: Connection, job_id: str) -> str | None:
    """Return why the newest run of a job failed; None if it did not."""
    message: str | None = await connection.fetchval(
        """
        SELECT r.failure->>'message' FROM jobs j JOIN runs r USING (job_id, run)
        WHERE j.job_id = $1 AND r.status = 'failed'
        """,
        job_id,
    )
    return message


async def existing_jobs(connection: Connection, job_ids: Collection[str]) -> frozenset[str]:
    """Return the existing jobs among `job_ids`."""
    rows = await connection.fetch(
        "SELECT job_id FROM jobs WHERE job_id = ANY($1::text[])", list(job_ids)
    )
    return frozenset(row["job_id"] for row in rows)


_STATES = """
    SELECT r.job_id, r.run, r.status, r.provider, r.track IS NOT NULL AS has_track,
        r.muxed IS NOT NULL AS has_video,
        ARRAY(SELECT s.scene_index FROM scenes s WHERE s.job_id = r.job_id
              AND s.run = r.run AND s.object_key IS NOT NULL) AS stored_scenes
    FROM runs r
"""


def _run_state(row: asyncpg.Record) -> RunState:
    return RunState(
        status=RunStatus(row["status"]),
        has_track=row["has_track"],
        has_video=row["has_video"],
        stored_scenes=frozenset(row["stored_scenes"]),
        provider=row["provider"],
    )
