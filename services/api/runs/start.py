"""Starting: begin the run that was asked for, once, in the transaction that is handed in.

Everything about a job happens under the lock on its row. The same request while its run is
under way is answered with that run; a different one begins the next run, which supersedes it;
after a run ended, asking again begins a new one.
"""

from datetime import datetime

from services.api.database import Connection, jobs, outbox, runs
from services.api.database.jobs import JobProgress, JobRow
from services.api.database.operators import redrive
from services.api.database.runs import RunRow
from services.api.domain.cost_estimate import check_cap, estimate_of
from services.api.domain.redrive import RedriveError, RedriveRequest, build_redrive_spec
from services.api.domain.run_spec import JobSpec, RunSpec
from services.api.domain.run_view import UNFINISHED, RunView
from services.api.http.presenter import progress_of
from shared.contract.events import SceneRequested
from shared.pricing import PricingSettings


async def lock_job(
    connection: Connection, job_id: str, said: JobSpec, *, now: datetime
) -> JobRow | None:
    """The job with what was said of it now, locked; None when it is unknown and has no scenes."""
    if said.scenes:
        await jobs.create(connection, [job_id], now=now)
    job = (await jobs.lock(connection, [job_id])).get(job_id)
    if job is None:
        return None
    known = job.spec
    if said.scenes is None and known.scenes is None and job.run:
        known = JobSpec(scenes=await jobs.scenes_of_run(connection, job_id, job.run)).over(known)
    return JobRow(
        job_id=job_id,
        run=job.run,
        spec=said.over(known),
        stitched_hashes=job.stitched_hashes,
    )


async def begin(
    connection: Connection,
    job: JobRow,
    asked: RunSpec,
    *,
    pricing: PricingSettings,
    now: datetime,
    traceparent: str | None = None,
) -> tuple[RunRow, bool]:
    """The run that answers `asked`, and whether it begins now.

    Raises:
        RequestInvalidError: it would begin now, and its estimate is over its cap.
    """
    current = await runs.find(connection, job.job_id, job.run) if job.run else None
    if (
        current is not None
        and current.status in UNFINISHED
        and current.request_hash == asked.digest()
    ):
        return current, False
    estimate = estimate_of(asked, pricing)
    check_cap(asked, estimate)
    begun = await runs.begin(connection, asked, job.run + 1, estimate=estimate, now=now)
    await jobs.describe(connection, job.job_id, job.spec, now=now)
    view = RunView(job_id=job.job_id, run=begun.run, started_at=now)
    shown = JobProgress(
        job_id=job.job_id, run=begun.run, progress=progress_of(view), video=asked.video
    )
    await jobs.save_progress(connection, [shown], now=now)
    await outbox.add_events(
        connection, requests_of(asked, begun.run), now=now, traceparent=traceparent
    )
    return begun, True


async def start_redrive(
    connection: Connection,
    job_id: str,
    wish: RedriveRequest,
    *,
    of_run: int,
    pricing: PricingSettings,
    now: datetime,
) -> RunRow:
    """The run that makes a part of run `of_run` again; it begins now.

    Raises:
        RedriveError: it cannot be made as wished, or `of_run` is no longer the newest.
        RequestInvalidError: its estimate is over its cap.
    """
    job = (await jobs.lock(connection, [job_id])).get(job_id)
    earlier = await redrive.previous_run(connection, job_id)
    if job is None or earlier is None or earlier.run != of_run:
        raise RedriveError(f"another run than {of_run} is the newest by now: look again")
    asked = build_redrive_spec(earlier, wish)
    begun, _ = await begin(connection, job, asked, pricing=pricing, now=now)
    assert begun.run == of_run + 1, "a run that is under way is refused"
    return begun


def requests_of(asked: RunSpec, run: int) -> list[SceneRequested]:
    """One `scene.requested` per scene, in order."""
    return [
        SceneRequested(
            job_id=asked.job_id,
            run=run,
            scene_index=index,
            scene_count=len(asked.scenes),
            duration_s=scene.duration_s,
            description=scene.description,
            prompt=scene.prompt,
            mood=scene.mood,
            params=asked.params,
            video=asked.video,
            kept=asked.kept.get(index),
            anew=index in asked.anew,
        )
        for index, scene in enumerate(asked.scenes)
    ]
