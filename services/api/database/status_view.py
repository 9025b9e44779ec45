"""Reads the status of a job and its media in single queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.api.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """A job, its newest run (None: no run) and that run's scenes by index."""

    job_id: str
    run: int
    version: int
    progress: Mapping[str, Any]
    newest: Mapping[str, Any] | None
    scenes: Sequence[Mapping[str, Any]]
    has_track: bool  #: any run of the job has a track
    has_video: bool


async def read(connection: Connection, job_id: str) -> StatusRow | None:
    """Return the status of a job; None if there is no such job."""
    row = await connection.fetchrow(_STATUS, job_id)
    if row is None:
        return None
    return StatusRow(
        job_id=row["job_id"],
        run=row["run"],
        version=row["version"],
        progress=row["progress"],
        newest=dict(row) if row["status"] is not None else None,
        scenes=row["scenes"] or (),
        has_track=row["has_track"],
        has_video=row["has_video"],
    )


_STATUS = """
    SELECT j.job_id, j.run, j.version, j.progress, r.status, r.scene_count, r.started_at,
        r.generated_at, r.track, r.muxed, r.failure, r.cancelled, r.estimate, r.params, r.video,
        r.provider,
        (SELECT jsonb_agg(to_jsonb(s) - '{job_id,run,spec}'::text[] ORDER BY s.scene_index)
         FROM scenes s WHERE s.job_id = j.job_id AND s.run = j.run) AS scenes,
        EXISTS (SELECT FROM runs t WHERE t.job_id = j.job_id AND t.track IS NOT NULL) AS has_track,
        EXISTS (SELECT FROM runs t WHERE t.job_id = j.job_id AND t.muxed IS NOT NULL) AS has_video
    FROM jobs j LEFT JOIN runs r USING (job_id, run)
    WHERE j.job_id = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A stored track or video of a job."""

    run: int
    object_key: str
    made_at: datetime | None


async def newest_track(connection: Connection, job_id: str) -> Media | None:
    """Return the track of the newest run that has one."""
    return _media(await connection.fetchrow(_NEWEST.format(column="track"), job_id))


async def newest_video(connection: Connection, job_id: str) -> Media | None:
    """Return the muxed video of the newest run that has one."""
    return _media(await connection.fetchrow(_NEWEST.format(column="muxed"), job_id))


_NEWEST = """
    SELECT run, {column}->>'object_key' AS object_key, generated_at AS made_at
    FROM runs WHERE job_id = $1 AND {column} IS NOT NULL ORDER BY run DESC LIMIT 1
"""


def _media(row: asyncpg.Record | None) -> Media | None:
    return None if row is None else Media(**row)
