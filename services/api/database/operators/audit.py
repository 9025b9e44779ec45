"""Audit: what operators did: a row per command that writes, from before its first change.

A row says `running` until its command has ended; the row of a process that died goes on saying
so, and keeps how far it had come. I/O: PostgreSQL, on the connection handed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import asyncpg

from services.api.database import Connection, storable


class ActionState(StrEnum):
    """How a command stands."""

    RUNNING = "running"  #: or its process died
    DONE = "done"
    INTERRUPTED = "interrupted"  #: by its operator, or because a server went away
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One row."""

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
    """Write down that `command` begins; the number of its row."""
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
    """Replace what is known of how far it has come."""
    await connection.execute(
        "UPDATE operator_actions SET progress = $2 WHERE id = $1", number, dict(progress)
    )


async def resume(connection: Connection, number: int) -> None:
    """It goes on after an interruption."""
    await connection.execute(
        "UPDATE operator_actions SET state = 'running', ended_at = NULL WHERE id = $1", number
    )


async def end(connection: Connection, number: int, state: ActionState, *, now: datetime) -> None:
    """Write down how it ended."""
    await connection.execute(
        "UPDATE operator_actions SET state = $2, ended_at = $3 WHERE id = $1",
        number,
        state.value,
        now,
    )


async def find(connection: Connection, number: int) -> Action | None:
    """One row; None if there is none."""
    row = await connection.fetchrow("SELECT * FROM operator_actions WHERE id = $1", number)
    return None if row is None else _action(row)


async def newest(
    connection: Connection, *, command: str | None = None, count: int = 50
) -> Sequence[Action]:
    """The newest rows, of one command or of all, newest first."""
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
    """What `command` did to one job, newest first."""
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
