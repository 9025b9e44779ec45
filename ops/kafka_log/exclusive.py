"""Alone: of the commands that say records again one runs at a time, and it knows its forerunner.

I/O: PostgreSQL.
"""

from collections.abc import Mapping
from typing import Any

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator
from services.api.operators import Action, ActionState, OwnConnection, audit, run_state

LOOK_BACK = 200  # commands


async def alone(operator: Operator, holder: OwnConnection) -> None:
    """Return once this session is the one; it is until `holder` ends.

    Raises:
        CommandError: another one runs, and whose.
    """
    if await run_state.try_replay_lock(holder):
        return
    async with operator.database.connection() as connection:
        rows = await audit.newest(connection, count=LOOK_BACK)
    for row in rows:
        if row.state is ActionState.RUNNING:
            began = f"{row.started_at:%Y-%m-%d %H:%M:%S}"
            told = f"{row.command} {row.id} of {row.who} runs since {began} UTC: one at a time"
            raise CommandError(Exit.REFUSED, told)
    raise CommandError(Exit.REFUSED, "another replay or requeue runs: one at a time")


async def interrupted(
    operator: Operator, command: str, arguments: Mapping[str, Any]
) -> Action | None:
    """The newest run of the same command, if it began and did not come to its end."""
    async with operator.database.connection() as connection:
        rows = await audit.newest(connection, command=command, count=LOOK_BACK)
    same = next((row for row in rows if row.arguments == arguments), None)
    if same is None or same.state is ActionState.DONE or "spans" not in same.progress:
        return None
    return same
