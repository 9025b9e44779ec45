"""Starts runs, each exactly once, in the caller's transaction.

Every change of a job happens under the lock on its row. A repeated request returns the running
run; a different request starts the next run, which supersedes it; after a run has ended, a
request starts a new one.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from services.api.database import Connection, jobs, outbox, runs, uploads
from services.api.database.jobs import JobRow, RunProgress
from services.api.database.operators import redrive
from services.api.domain.cost_estimate import RunEstimate, check_cap, estimate_of
from services.api.domain.progress import progress_of
from services.api.domain.redrive import RedriveError, RedriveRequest, build_redrive_spec
from services.api.domain.run_spec import JobSpec, RunSpec
from services.api.domain.run_view import UNFINISHED, RunView
from shared.pricing import PricingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """The new or running run of a request."""

    run: int
    started_at: datetime
    estimate: RunEstimate  #: the stored one; computed now if the run has none
    spec: RunSpec
    is_new: bool  #: false: it was running already

    def warnings(self, own_provider: str) -> list[str]:
        """Return that the running run has another provider than new ones, if it has."""
        kept = self.spec.provider
        if self.is_new or kept is None or kept == own_provider:
            return []
        message = f"run {self.run} continues with {kept}, the provider that it started with"
        return [f"{message}; for {own_provider}, cancel it and request it again"]


async def lock_job(
    connection: Connection, job_id: str, changes: JobSpec, *, now: datetime
) -> JobRow | None:
    """Lock a job and return it with `changes` applied; None if it is unknown and has no scenes."""
    if changes.scenes:
        await jobs.create(connection, [job_id], now=now)
    job = (await jobs.lock(connection, [job_id])).get(job_id)
    if job is None:
        return None
    stored = job.spec
    if changes.scenes is None and stored.scenes is None and job.run:
        stored = JobSpec(scenes=await jobs.scenes_of_run(connection, job_id, job.run)).over(stored)
    return replace(job, spec=changes.over(stored))


async def start_run(
    connection: Connection,
    job: JobRow,
    spec: RunSpec,
    *,
    pricing: PricingSettings,
    now: datetime,
    traceparent: str | None = None,
) -> StartedRun:
    """Return the running run of the same request, or start the next run.

    A run that names no provider is bound to the api's own, and keeps it after a restart with
    other settings.

    Raises:
        RequestInvalidError: a new run would exceed its cost limit.
    """
    await uploads.reference(connection, spec.object_keys)
    spec = replace(spec, provider=spec.provider or pricing.provider)
    estimate = estimate_of(spec, pricing)
    current = await runs.find(connection, job.job_id, job.run) if job.run else None
    if (
        current is not None
        and current.status in UNFINISHED
        and current.request_hash == spec.digest()
    ):
        return StartedRun(
            run=current.run,
            started_at=current.started_at,
            estimate=current.estimate or estimate,
            spec=replace(spec, provider=current.provider),
            is_new=False,
        )
    check_cap(spec, estimate)
    run, requests = job.run + 1, spec.requests(job.run + 1)
    await runs.insert(connection, spec, requests, estimate=estimate, now=now)
    await jobs.describe(connection, job.job_id, job.spec, now=now)
    view = RunView(job_id=job.job_id, run=run, started_at=now)
    progress = RunProgress(job_id=job.job_id, run=run, progress=progress_of(view), video=spec.video)
    await jobs.save_progress(connection, [progress], now=now)
    await outbox.add_events(connection, requests, now=now, traceparent=traceparent)
    return StartedRun(run=run, started_at=now, estimate=estimate, spec=spec, is_new=True)


async def start_redrive(
    connection: Connection,
    job_id: str,
    request: RedriveRequest,
    *,
    of_run: int,
    pricing: PricingSettings,
    now: datetime,
    provider: str | None = None,
) -> StartedRun:
    """Start the run that generates a part of run `of_run` again; `provider` None: with its own.

    Raises:
        RedriveError: it is not possible, or `of_run` is no longer the newest run.
        RequestInvalidError: the run would exceed its cost limit.
    """
    job = (await jobs.lock(connection, [job_id])).get(job_id)
    previous = await redrive.previous_run(connection, job_id)
    if job is None or previous is None or previous.run != of_run:
        raise RedriveError(
            f"run {of_run} is no longer the newest run of job {job_id}: check the job and retry"
        )
    spec = build_redrive_spec(previous, request, provider=provider)
    started = await start_run(connection, job, spec, pricing=pricing, now=now)
    assert started.run == of_run + 1, "a running run is rejected"
    return started
