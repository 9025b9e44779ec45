"""Cancels the newest run of a job, in the caller's transaction.

`job.cancelled` is published through the outbox, after all earlier events of the run. The generator
cancels the current prediction and requests no more; later stages skip the run; stored objects
remain. As with every event, the rows change when the projection reads it.
"""

from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection, jobs, outbox, runs
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.contract.events import JobCancelled

REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOutcome:
    """Result of a cancel request."""

    job_id: str
    run: int  #: the newest; 0: the job has none
    status: RunStatus | None  #: of that run, before the request
    is_cancelling: bool  #: false: there was nothing to cancel
    message: str


async def cancel(
    connection: Connection, job_id: str, *, run: int | None, reason: str, now: datetime
) -> CancelOutcome | None:
    """Cancel the newest run of a job; return None if there is no such job.

    `run`: cancel only if this is the newest run.
    """
    if not await jobs.lock(connection, [job_id]):
        return None
    plan = await plan_cancel(connection, job_id, run=run)
    if plan is not None and plan.is_cancelling:
        event = JobCancelled(job_id=job_id, run=plan.run, reason=reason)
        await outbox.add_events(connection, [event], now=now)
    return plan


async def plan_cancel(
    connection: Connection, job_id: str, *, run: int | None
) -> CancelOutcome | None:
    """Return what `cancel` would do; change nothing."""
    newest = await jobs.newest_run(connection, job_id)
    if newest is None:
        return None
    row = await runs.find(connection, job_id, newest) if newest else None
    status = None if row is None else row.status
    obstacle = _obstacle(run, newest, status)
    return CancelOutcome(
        job_id=job_id,
        run=newest,
        status=status,
        is_cancelling=obstacle is None,
        message=obstacle or f"run {newest} is being cancelled; nothing more is spent on it",
    )


def _obstacle(run: int | None, newest: int, status: RunStatus | None) -> str | None:
    """Return why there is nothing to cancel; None if there is."""
    if status is None:
        return "the job has no run: there is nothing to cancel"
    if run is not None and run > newest:
        return f"run {run} not found; the newest is {newest}: nothing was cancelled"
    if run is not None and run != newest:
        return f"run {run} was superseded by run {newest}, which continues: nothing was cancelled"
    if status not in UNFINISHED:
        return f"run {newest} has ended ({status.value}): there is nothing to cancel"
    return None
