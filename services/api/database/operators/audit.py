"""Audit log of operator commands: one row per command that writes.

The row is inserted before the first change and is `running` until the command ends; after a
crash it stays `running` and keeps the last progress. I/O: PostgreSQL, on the given connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import asyncpg

from services.api.database import Connection, storable


class ActionState(StrEnum):
    """State of a command."""

    RUNNING = "running"  #: or its process crashed
    DONE = "done"
    INTERRUPTED = "interrupted"  #: by the operator, or a server became unavailable
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One command in the audit log."""

    id: int
    command: str
    arguments: Mapping[str, Any]
    who: str
    reason: str
    state: ActionState
    progress: Mapping[str, Any]
    started_at: datetime
    ended_at: datetime | None


async def begin(
    connection: Connection,
    *,
    command: str,
    arguments: Mapping[str, Any],
    who: str,
    reason: str,
    now: datetime,
) -> int:
    """Insert a row for `command`; return its number."""
    number: int = await connection.fetchval(
        """
        INSERT INTO operator_actions (command, arguments, who, reason, state, started_at)
        VALUES ($1, $2, $3, $4, 'running', $5) RETURNING id
        """,
        command,
        dict(arguments),
        storable(who),
        storable(reason),
        now,
    )
    return number


async def save_progress(connection: Connection, number: int, progress: Mapping[str, Any]) -> None:
    """Replace the progress of a command."""
    await connection.execute(
        "UPDATE operator_actions SET progress = $2 WHERE id = $1", number, dict(progress)
    )


async def resume(connection: Connection, number: int) -> None:
    """Mark a command as running again after an interruption."""
    await connection.execute(
        "UPDATE operator_actions SET state = 'running', ended_at = NULL WHERE id = $1", number
    )


async def end(connection: Connection, number: int, state: ActionState, *, now: datetime) -> None:
    """Store the final state of a command."""
    await connection.execute(
        "UPDATE operator_actions SET state = $2, ended_at = $3 WHERE id = $1",
        number,
        state.value,
        now,
    )


async def find(connection: Connection, number: int) -> Action | None:
    """Return one row; None if there is none."""
    row = await connection.fetchrow("SELECT * FROM operator_actions WHERE id = $1", number)
    return None if row is None else _action(row)


async def newest(
    connection: Connection, *, command: str | None = None, count: int = 50
) -> Sequence[Action]:
    """Return the newest rows of one command or of all, newest first."""
    rows = await connection.fetch(
        """
        SELECT * FROM operator_actions WHERE $1::text IS NULL OR command = $1
        ORDER BY id DESC LIMIT $2
        """,
        command,
        count,
    )
    return [_action(row) for row in rows]


async def of_job(connection: Connection, job_id: str, *, command: str) -> Sequence[Action]:
    """Return the rows of `command` for one job, newest first."""
    rows = await connection.fetch(
        """
        SELECT * FROM operator_actions WHERE command = $1 AND arguments->>'job_id' = $2
        ORDER BY id DESC
        """,
        command,
        job_id,
    )
    return [_action(row) for row in rows]


def _action(row: asyncpg.Record) -> Action:
    return Action(**{**dict(row), "state": ActionState(row["state"])})
