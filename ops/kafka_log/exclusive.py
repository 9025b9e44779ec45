"""Advisory lock for replay, requeue and discard; finds an interrupted run to resume.

I/O: PostgreSQL.
"""

from collections.abc import Mapping
from typing import Any

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator
from ops.cli.times import format_time
from services.api.operators import Action, ActionState, OwnConnection, audit, run_state

ROWS_MAX = 200  #: of the audit, newest first


async def acquire_exclusive(operator: Operator, connection: OwnConnection) -> None:
    """Take the lock; it is held until `connection` closes.

    Raises:
        CommandError: another replay or requeue is running; the message names it.
    """
    if await run_state.try_replay_lock(connection):
        return
    async with operator.database.connection() as reader:
        rows = await audit.newest(reader, count=ROWS_MAX)
    for row in rows:
        if row.state is ActionState.RUNNING:
            raise CommandError(
                Exit.REFUSED,
                f"{row.command} {row.id} of {row.who} is running since "
                f"{format_time(row.started_at)}; wait until it ends",
            )
    raise CommandError(Exit.REFUSED, "another replay or requeue is running; wait until it ends")


async def find_interrupted(
    operator: Operator, command: str, arguments: Mapping[str, Any]
) -> Action | None:
    """Return the latest run with the same arguments if it did not finish; None otherwise."""
    async with operator.database.connection() as connection:
        rows = await audit.newest(connection, command=command, count=ROWS_MAX)
    latest = next((row for row in rows if row.arguments == arguments), None)
    if latest is None or latest.state is ActionState.DONE or "spans" not in latest.progress:
        return None
    return latest
