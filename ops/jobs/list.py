"""Jobs: the command that lists them, newest first, and says how each stands.

One page of a million takes as long as one of ten (`services/api/database/job_list.py`). It
reads PostgreSQL alone, and writes nothing.

I/O: PostgreSQL.
"""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, run_with_operator
from ops.cli.options import DataDir, Json, Moment, utc
from ops.cli.output import plain, wide
from services.api.operators import LISTED, UNFINISHED, JobSummary, dollars, job_list

#: the contract's one word for all that is under way
PROCESSING = "processing"
COLUMNS = ("job", "run", "status", "scenes", "cost", "age", "why")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def jobs(
    *,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "--stage", help=f"Any of {', '.join((*LISTED, PROCESSING))}."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Those that failed.")] = False,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Those of which a scene waits for its provider.")
    ] = False,
    since: Moment = None,
    after: Annotated[
        str | None, typer.Option(metavar="JOB", help="The page behind this job, its last one.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs: how each stands, what it cost, and why it failed or waits."""
    with report_errors(as_json=as_json):
        wanted = statuses_of([*(status or []), *(["failed"] if failed else [])])
        if waiting:
            wanted &= frozenset(UNFINISHED)
            if not wanted:
                raise CommandError(Exit.USAGE, "only what is under way waits: leave one out")

        async def body(operator: Operator) -> dict[str, Any]:
            return await _jobs(
                operator, wanted, since=utc(since), after=after, waiting=waiting, limit=limit
            )

        told = run_with_operator(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told)
            return
        if told["jobs"]:
            plain().print(table(told["jobs"]))
        print(last_line(told, wanted))


def statuses_of(asked: Sequence[str]) -> frozenset[str]:
    """The statuses that are meant; none asked for: all.

    Raises:
        CommandError: there is no such status.
    """
    meant: set[str] = set()
    for one in asked:
        if one == PROCESSING:
            meant |= UNFINISHED
        elif one in LISTED:
            meant.add(one)
        elif one == "superseded":
            told = "a superseded run has a newer one, which is listed: see segue job JOB"
            raise CommandError(Exit.USAGE, told)
        else:
            told = f"there is no status {one}; there are {', '.join((*LISTED, PROCESSING))}"
            raise CommandError(Exit.USAGE, told)
    return frozenset(str(one) for one in meant or LISTED)


async def _jobs(
    operator: Operator,
    wanted: Collection[str],
    *,
    since: datetime | None,
    after: str | None,
    waiting: bool,
    limit: int,
) -> dict[str, Any]:
    async with operator.database.connection() as connection:
        place = None
        if after is not None:
            place = await job_list.position_of(connection, after)
            if place is None:
                raise CommandError(Exit.REFUSED, f"nobody knows a job {after}")
        found = await job_list.page(
            connection, wanted, after=place, since=since, only_waiting=waiting, count=limit + 1
        )
    now = operator.clock.now()
    page = found[:limit]
    return {
        "jobs": [line_of(one, now=now) for one in page],
        "next": page[-1].job_id if len(found) > limit else None,
    }


def line_of(one: JobSummary, *, now: datetime) -> dict[str, Any]:
    """One job for scripts."""
    moments = {
        name: None if moment is None else moment.isoformat()
        for name, moment in (("at", one.at), ("generated_at", one.generated_at))
    }
    age_s = round(max((now - one.at).total_seconds(), 0.0), 1)
    return {**asdict(one), **moments, "age_s": age_s}


def table(lines: Sequence[dict[str, Any]]) -> Table:
    """Jobs for people."""
    found = wide(*COLUMNS, right={"run", "scenes", "cost", "age"}, folds={"job", "why"})
    for one in lines:
        found.add_row(
            one["job_id"],
            str(one["run"] or ""),
            one["status"],
            scenes_of(one),
            "" if one["cost_usd"] is None else dollars(one["cost_usd"]),
            age_of(one["age_s"]),
            why_of(one),
        )
    return found


def scenes_of(one: dict[str, Any]) -> str:
    """How many scenes are done, of how many."""
    count = one["scene_count"]
    return f"{one['scenes_done']}/{count or '?'}" if one["run"] else ""


def why_of(one: dict[str, Any]) -> str:
    """Why a job failed, was cancelled, or does not go on."""
    said = one["error"] or (f"waits: {one['waits']}" if one["waits"] else "")
    return str(said).splitlines()[0] if said else ""


def age_of(seconds: float) -> str:
    """A time as people say it: the largest unit, and the next."""
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


def last_line(told: dict[str, Any], wanted: Collection[str]) -> str:
    """What is said below the list."""
    if not told["jobs"]:
        which = "" if set(wanted) == set(LISTED) else f" that is {' or '.join(sorted(wanted))}"
        return f"no job{which}"
    if told["next"] is not None:
        return f"more: --after {shlex.quote(told['next'])}"
    return f"{len(told['jobs'])} jobs, and no more"
