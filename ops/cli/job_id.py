"""The error of every command that is given an unknown job.

I/O: PostgreSQL.
"""

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator
from services.api.operators import job_not_found, run_state


def unknown_job(job_id: str) -> CommandError:
    """Return the error, with the message of the api's 404."""
    return CommandError(Exit.REFUSED, job_not_found(job_id))


async def check_job(operator: Operator, job_id: str | None) -> None:
    """Raise if no job of this id exists; None: no job was named.

    Raises:
        CommandError: the job does not exist.
    """
    if job_id is None:
        return
    async with operator.database.connection() as connection:
        if not await run_state.existing_jobs(connection, [job_id]):
            raise unknown_job(job_id)
