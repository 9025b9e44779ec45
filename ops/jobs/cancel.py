"""The cancel command: stops a run, with or without running services.

I/O: PostgreSQL and Kafka.
"""

from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.job_id import unknown_job
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.jobs.flush_outbox import flush_outbox
from services.api.operators import CancelOutcome, plan_cancel
from services.api.operators import cancel as run_cancellation


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
    """Stop the newest run of JOB_ID: it costs nothing more; what was generated is kept."""
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        command.run(
            lambda operator: _cancel(operator, job_id, number),
            lines=lambda result: [result["message"]],
        )


async def _cancel(operator: Operator, job_id: str, number: int | None) -> dict[str, Any]:
    if not operator.apply:
        async with operator.database.connection() as connection:
            plan = _checked(job_id, await plan_cancel(connection, job_id, run=number))
        message = dry_run(f"run {plan.run} would be cancelled", "cancel it")
        return _result(plan, applied=False, message=message)
    arguments = {"job_id": job_id, "run": number}
    async with audited_action(operator, "cancel", arguments=arguments) as row:
        async with operator.database.transaction() as connection:
            cancelled = _checked(
                job_id,
                await run_cancellation.cancel(
                    connection,
                    job_id,
                    run=number,
                    reason=operator.reason,
                    now=operator.clock.now(),
                ),
            )
        is_flushed = await flush_outbox(operator)
        relay_note = "" if is_flushed else "; the api's relay publishes it"
        result = _result(cancelled, applied=True, message=cancelled.message + relay_note)
        await row.save_progress(result)
        return result


def _checked(job_id: str, cancelled: CancelOutcome | None) -> CancelOutcome:
    """Return `cancelled`.

    Raises:
        CommandError: the job or run does not exist, or has ended.
    """
    if cancelled is None:
        raise unknown_job(job_id)
    if not cancelled.is_cancelling:
        raise CommandError(Exit.REFUSED, cancelled.message)
    return cancelled


def _result(cancelled: CancelOutcome, *, applied: bool, message: str) -> dict[str, Any]:
    return {
        "job_id": cancelled.job_id,
        "run": cancelled.run,
        "status_before": cancelled.status.value if cancelled.status else None,
        "applied": applied,
        "message": message,
    }
