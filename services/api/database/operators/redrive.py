"""Redrive: what a job's newest run was asked for and has come to, to make a part of it again.

I/O: PostgreSQL, on the connection handed in.
"""

from services.api.database import Connection, jobs, runs
from services.api.domain.redrive import PreviousRun, PreviousScene
from shared.contract.params import AudioParams, Kept, Scene


async def previous_run(connection: Connection, job_id: str) -> PreviousRun | None:
    """The newest run of a job; None: nobody knows the job. Its `run` is 0 before any."""
    number = await jobs.newest_run(connection, job_id)
    if number is None:
        return None
    view = (await runs.load(connection, [(job_id, number)])).get((job_id, number))
    if view is None:
        return PreviousRun(job_id=job_id, run=0)
    rows = await connection.fetch(
        """
        SELECT s.scene_index, s.spec, s.state FROM scenes s JOIN runs r USING (job_id, run)
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
        parts=tuple(
            PreviousScene(
                scene=Scene.model_validate(row["spec"]),
                is_done=row["state"] == "done",
                kept=Kept.model_validate(row["spec"]["kept"]) if "kept" in row["spec"] else None,
                anew=row["spec"].get("anew", False),
            )
            for row in rows
        ),
        is_whole=view.scene_count == len(rows),
        params=view.params or AudioParams(),
        video=view.video,
        failed_scene=view.failure.scene_index if view.failure else None,
        has_track=view.track is not None,
    )
