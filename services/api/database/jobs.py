"""Reads, writes and locks jobs.

Every change of a job holds the lock on its row: a request, the projection of its events,
upstream's `video.stitched`. Rows are created and locked in the order of their ids, so that no
deadlock is possible.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.api.database import JOBS_CHANNEL, Connection, scene_spec
from services.api.domain.run_spec import JobSpec
from shared.contract.params import Scene, VideoRef


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One locked job."""

    job_id: str
    run: int  #: the newest; 0: none
    spec: JobSpec
    stitched_hashes: tuple[str, ...] = ()


async def create(connection: Connection, job_ids: Collection[str], *, now: datetime) -> None:
    """Create the jobs that do not exist."""
    await connection.execute(
        """
        INSERT INTO jobs (job_id, created_at, updated_at)
        SELECT job_id, $2, $2 FROM unnest($1::text[]) AS job_id
        ON CONFLICT DO NOTHING
        """,
        sorted(job_ids),
        now,
    )


async def lock(connection: Connection, job_ids: Collection[str]) -> dict[str, JobRow]:
    """Lock the existing jobs until the transaction ends, and return them."""
    rows = await connection.fetch(
        """
        SELECT job_id, run, video, scenes, audio_params, stitched_hashes
        FROM jobs WHERE job_id = ANY($1::text[]) ORDER BY job_id COLLATE "C" FOR UPDATE
        """,
        sorted(job_ids),
    )
    return {row["job_id"]: _job(row) for row in rows}


async def newest_run(connection: Connection, job_id: str) -> int | None:
    """Return the number of a job's newest run, 0 without one; None if there is no such job."""
    run: int | None = await connection.fetchval("SELECT run FROM jobs WHERE job_id = $1", job_id)
    return run


async def describe(connection: Connection, job_id: str, spec: JobSpec, *, now: datetime) -> None:
    """Update the given parts of a job; the others stay unchanged."""
    await connection.execute(
        """
        UPDATE jobs SET
            scenes = COALESCE($2, scenes), video = COALESCE($3, video),
            audio_params = COALESCE($4, audio_params), updated_at = $5, version = version + 1
        WHERE job_id = $1
        """,
        job_id,
        None if spec.scenes is None else [_dumped(scene) for scene in spec.scenes],
        None if spec.video is None else _dumped(spec.video),
        None if spec.audio_params is None else dict(spec.audio_params),
        now,
    )


async def remember_stitched(connection: Connection, job_id: str, digest: str) -> None:
    """Store the digest of an applied `video.stitched`, so that a replay is recognised."""
    await connection.execute(
        "UPDATE jobs SET stitched_hashes = stitched_hashes || $2::text WHERE job_id = $1",
        job_id,
        digest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """Progress of a job's newest run, as its row stores it."""

    job_id: str
    run: int
    progress: Mapping[str, Any]
    video: VideoRef | None


async def save_progress(
    connection: Connection, progress: Sequence[RunProgress], *, now: datetime
) -> None:
    """Write the progress of jobs and notify their followers on commit."""
    await connection.executemany(
        """
        UPDATE jobs SET run = $2, progress = $3, video = COALESCE(video, $4),
            version = version + 1, updated_at = $5
        WHERE job_id = $1
        """,
        [
            (row.job_id, row.run, row.progress, _dumped(row.video) if row.video else None, now)
            for row in progress
        ],
    )
    await notify(connection, [row.job_id for row in progress])


async def notify(connection: Connection, job_ids: Collection[str]) -> None:
    """Notify the followers of these jobs on commit."""
    await connection.execute(
        "SELECT pg_notify($1, job_id) FROM unnest($2::text[]) AS job_id",
        JOBS_CHANNEL,
        list(job_ids),
    )


async def scenes_of_run(connection: Connection, job_id: str, run: int) -> tuple[Scene, ...] | None:
    """Return the scenes of a run requested scene by scene; None while some are missing."""
    rows = await connection.fetch(
        """
        SELECT s.spec FROM scenes s JOIN runs r USING (job_id, run)
        WHERE job_id = $1 AND run = $2 AND s.spec IS NOT NULL AND s.scene_index < r.scene_count
            AND r.scene_count = (
                SELECT count(*) FROM scenes WHERE job_id = $1 AND run = $2 AND spec IS NOT NULL)
        ORDER BY scene_index
        """,
        job_id,
        run,
    )
    return tuple(scene_spec.scene_from(row["spec"]) for row in rows) or None


def _job(row: asyncpg.Record) -> JobRow:
    scenes, video = row["scenes"], row["video"]
    return JobRow(
        job_id=row["job_id"],
        run=row["run"],
        spec=JobSpec(
            scenes=tuple(Scene.model_validate(scene) for scene in scenes) if scenes else None,
            video=VideoRef.model_validate(video) if video else None,
            audio_params=row["audio_params"],
        ),
        stitched_hashes=tuple(row["stitched_hashes"]),
    )


def _dumped(value: Scene | VideoRef) -> Any:
    return value.model_dump(mode="json", exclude_none=True)
