"""Reads the newest run of a job for a redrive.

I/O: PostgreSQL, on the given connection.
"""

from collections.abc import Sequence

import asyncpg

from services.api.database import Connection, jobs, runs, scene_spec
from services.api.domain.redrive import PreviousRun
from shared.contract.params import AudioParams
from shared.music_providers import PROVIDERS


async def previous_run(connection: Connection, job_id: str) -> PreviousRun | None:
    """Return the newest run of a job, run 0 if it has none; None if there is no such job."""
    number = await jobs.newest_run(connection, job_id)
    if number is None:
        return None
    view = (await runs.load(connection, [(job_id, number)])).get((job_id, number))
    if view is None:
        return PreviousRun(job_id=job_id, run=0)
    rows = await connection.fetch(
        """
        SELECT s.scene_index, s.spec, s.state, s.provider
        FROM scenes s JOIN runs r USING (job_id, run)
        WHERE job_id = $1 AND run = $2 AND s.spec IS NOT NULL AND s.scene_index < r.scene_count
        ORDER BY s.scene_index
        """,
        job_id,
        number,
    )
    return PreviousRun(
        job_id=job_id,
        run=number,
        status=view.status,
        scenes=tuple(
            scene_spec.previous_scene(row["spec"], is_done=row["state"] == "done") for row in rows
        ),
        is_whole=view.scene_count == len(rows),
        params=view.params or AudioParams(),
        video=view.video,
        provider=view.provider or _provider_of(rows),
        failed_scene=view.failure.scene_index if view.failure else None,
        has_track=view.track is not None,
    )


def _provider_of(rows: Sequence[asyncpg.Record]) -> str | None:
    """Return the provider of the scenes that the run generated itself; None if it is unknown."""
    names = (row["provider"] for row in rows if "kept" not in row["spec"])
    return next((name for name in names if name in PROVIDERS), None)
