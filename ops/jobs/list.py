"""The jobs command: lists jobs with status, cost and reason, newest first.

A page of a million jobs takes as long as one of ten (`services/api/database/job_list.py`). The
command only reads.

I/O: PostgreSQL.
"""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.job_id import unknown_job
from ops.cli.layout import Hanging, Line, Listing, count_of
from ops.cli.operator import Operator, operator_command
from ops.cli.options import DataDir, Json, Since
from ops.cli.servers import server_problems
from ops.cli.times import Moment, format_time
from services.api.operators import LISTED, UNFINISHED, JobSummary, dollars, job_list

#: the contract's status of every unfinished run
PROCESSING = "processing"
COLUMNS = ("job", "run", "status", "scenes", "cost", "age", "why")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def jobs(
    *,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "--stage", help=f"Any of {', '.join((*LISTED, PROCESSING))}."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed jobs.")] = False,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only jobs with a scene that waits for its provider.")
    ] = False,
    since: Since = None,
    after: Annotated[
        str | None, typer.Option(metavar="JOB", help="The page after this job, the last one shown.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most N jobs.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs with status, cost, and why they failed or wait."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        statuses = parse_statuses([*(status or []), *(["failed"] if failed else [])])
        if waiting:
            statuses &= frozenset(UNFINISHED)
            if not statuses:
                raise CommandError(
                    Exit.USAGE, "--waiting selects unfinished jobs only: remove the status"
                )
        command.run(
            lambda operator: _jobs(
                operator, statuses, since=since, after=after, waiting=waiting, limit=limit
            ),
            lines=lambda result: _lines(result, statuses, since),
        )


def parse_statuses(names: Sequence[str]) -> frozenset[str]:
    """Return the statuses that the options name; all of them for no name.

    Raises:
        CommandError: a status does not exist.
    """
    statuses: set[str] = set()
    for name in names:
        if name == PROCESSING:
            statuses |= UNFINISHED
        elif name in LISTED:
            statuses.add(name)
        elif name == "superseded":
            message = "superseded runs are not listed, only the newest run: see segue job JOB"
            raise CommandError(Exit.USAGE, message)
        else:
            known = ", ".join((*LISTED, PROCESSING))
            raise CommandError(Exit.USAGE, f"status {name} not found; statuses: {known}")
    return frozenset(str(status) for status in statuses or LISTED)


async def _jobs(
    operator: Operator,
    statuses: Collection[str],
    *,
    since: Moment | None,
    after: str | None,
    waiting: bool,
    limit: int,
) -> dict[str, Any]:
    async with operator.database.connection() as connection:
        position = None
        if after is not None:
            position = await job_list.position_of(connection, after)
            if position is None:
                raise unknown_job(after)
        summaries = await job_list.page(
            connection,
            statuses,
            after=position,
            since=None if since is None else since.at,
            only_waiting=waiting,
            count=limit + 1,
        )
    now = operator.clock.now()
    page = summaries[:limit]
    return {
        "jobs": [job_row(summary, now=now) for summary in page],
        "next": page[-1].job_id if len(summaries) > limit else None,
        "problems": await server_problems(operator),
    }


def job_row(summary: JobSummary, *, now: datetime) -> dict[str, Any]:
    """Return one job for `--json` and the table."""
    moments = {
        name: None if moment is None else moment.isoformat()
        for name, moment in (("at", summary.at), ("generated_at", summary.generated_at))
    }
    age_s = round(max((now - summary.at).total_seconds(), 0.0), 1)
    return {**asdict(summary), **moments, "age_s": age_s}


def _lines(
    result: dict[str, Any], statuses: Collection[str], since: Moment | None
) -> Iterator[Line | Listing]:
    if result["jobs"]:
        yield jobs_table(result["jobs"])
    yield last_line(result, statuses, since)
    yield from (Hanging("! ", problem) for problem in result["problems"])


def jobs_table(rows: Sequence[dict[str, Any]]) -> Listing:
    """Return jobs as a table."""
    table = Listing(*COLUMNS, right={"run", "scenes", "cost", "age"}, wraps={"job", "why"})
    for row in rows:
        table.add_row(
            row["job_id"],
            str(row["run"] or ""),
            row["status"],
            format_scenes(row),
            "" if row["cost_usd"] is None else dollars(row["cost_usd"]),
            format_age(row["age_s"]),
            format_reason(row),
        )
    return table


def format_scenes(row: dict[str, Any]) -> str:
    """Return the number of finished scenes, of how many."""
    count = row["scene_count"]
    return f"{row['scenes_done']}/{count or '?'}" if row["run"] else ""


def format_reason(row: dict[str, Any]) -> str:
    """Return why a job failed, was cancelled, or waits."""
    reason = row["error"] or (f"waiting: {row['waits']}" if row["waits"] else "")
    return str(reason).splitlines()[0] if reason else ""


def format_age(seconds: float) -> str:
    """Return a duration in its largest unit and the next one."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    hours, minutes = divmod(whole // _MINUTE_S, 60)
    if whole < _DAY_S:
        return f"{hours} h {minutes} min"
    days, rest = divmod(timedelta(seconds=whole), timedelta(days=1))
    return f"{days} d {rest.seconds // _HOUR_S} h"


def last_line(
    result: dict[str, Any], statuses: Collection[str], since: Moment | None = None
) -> str:
    """Return the line below the table: the number of jobs, or how to see more."""
    if not result["jobs"]:
        names = "" if set(statuses) == set(LISTED) else f" {' or '.join(sorted(statuses))}"
        period = "" if since is None else f" since {format_time(since.at)}"
        return f"No{names} jobs{period}."
    if result["next"] is not None:
        return f"For more: add --after {shlex.quote(result['next'])}"
    return f"{count_of(len(result['jobs']), 'job')}."
