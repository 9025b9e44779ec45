"""Cancel: the command that stops a run, with or without the services.

I/O: PostgreSQL and Kafka.
"""

from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit, answering, print_json
from ops.cli.operator import Operator, audited, run
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.jobs.flush_outbox import published
from services.api.operators import CancelOutcome, plan_cancel
from services.api.operators import cancel as cancelling


def cancel(
    job_id: str,
    *,
    number: Annotated[
        int | None, typer.Option("--run", min=1, help="Only this run, if it is the newest.")
    ] = None,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Stop the newest run of JOB_ID: nothing more is spent on it, what was made stays."""
    with answering(as_json=as_json):
        told = run(
            lambda operator: _cancel(operator, job_id, number, apply=apply, reason=reason),
            as_json=as_json,
            data_dir=data_dir,
        )
        if as_json:
            print_json(told)
        else:
            print(told["message"])


async def _cancel(
    operator: Operator, job_id: str, number: int | None, *, apply: bool, reason: str | None
) -> dict[str, Any]:
    if not apply:
        async with operator.database.connection() as connection:
            plan = _known(job_id, await plan_cancel(connection, job_id, run=number))
        what = f"run {plan.run} would stop; --apply --reason does it"
        return _told(plan, applied=False, message=what)
    arguments = {"job_id": job_id, "run": number}
    async with audited(operator, "cancel", arguments=arguments, reason=reason) as audit:
        async with operator.database.transaction() as connection:
            done = _known(
                job_id,
                await cancelling.cancel(
                    connection, job_id, run=number, reason=reason or "", now=operator.clock.now()
                ),
            )
        left = "" if await published(operator) else "; the api's relay publishes it"
        told = _told(done, applied=True, message=done.message + left)
        await audit.tell(told)
        return told


def _known(job_id: str, found: CancelOutcome | None) -> CancelOutcome:
    """`found`, if there is something to stop."""
    if found is None:
        raise CommandError(Exit.REFUSED, f"there is no job {job_id}")
    if not found.is_cancelling:
        raise CommandError(Exit.REFUSED, found.message)
    return found


def _told(found: CancelOutcome, *, applied: bool, message: str) -> dict[str, Any]:
    status = found.status.value if found.status else None
    return {
        "job_id": found.job_id,
        "run": found.run,
        "status_before": status,
        "applied": applied,
        "message": message,
    }
