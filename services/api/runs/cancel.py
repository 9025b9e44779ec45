"""Cancelling: say that a run is to stop, in the transaction that is handed in.

`job.cancelled` goes out through the outbox, behind everything that was said of the run before.
The generator cancels the prediction under way and asks for no more, the later stages skip; what
was made stays. The rows change when the api reads its own word, as with every event.
"""

from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection, jobs, outbox, runs
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.contract.events import JobCancelled

REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOutcome:
    """What came of it."""

    job_id: str
    run: int  #: the newest; 0: none was asked for
    status: RunStatus | None  #: of that run, before this
    is_cancelling: bool  #: it is to stop; else there was nothing to stop
    message: str


async def cancel(
    connection: Connection, job_id: str, *, run: int | None, reason: str, now: datetime
) -> CancelOutcome | None:
    """Stop the newest run of a job; None: nobody knows the job.

    `run`: stop only that one; a newer one goes on.
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
    """What `cancel` would come to."""
    number = await jobs.newest_run(connection, job_id)
    if number is None:
        return None
    newest = await runs.find(connection, job_id, number) if number else None
    status = None if newest is None else newest.status
    why_not = _why_not(run, number, status)
    return CancelOutcome(
        job_id=job_id,
        run=number,
        status=status,
        is_cancelling=why_not is None,
        message=why_not or f"run {number} stops; nothing more is spent on it",
    )


def _why_not(run: int | None, newest: int, status: RunStatus | None) -> str | None:
    """Why there is nothing to stop; None: there is."""
    if status is None:
        return "no run was asked for: there is nothing to cancel"
    if run is not None and run > newest:
        return f"there is no run {run}; the newest is {newest}: nothing was cancelled"
    if run is not None and run != newest:
        return f"run {run} was superseded by run {newest}, which goes on: nothing was cancelled"
    if status not in UNFINISHED:
        return f"run {newest} has ended ({status.value}): there is nothing to cancel"
    return None
