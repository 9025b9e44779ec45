"""Rebuild: the command that holds the api's rows against the log, and mends them if asked.

Dry by default. The api may run. Ctrl-C leaves every row as it was.

I/O: Kafka and PostgreSQL.
"""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit, answering, print_json
from ops.cli.operator import Operator, audited, run
from ops.cli.options import DataDir, Json, Reason
from ops.cli.progress import telling
from services.api.operators import ProjectionRebuild, RebuildError, RebuildReport
from shared.errors import RetryableError

STATEMENT_S = 600.0  # all rows are compared in one


def rebuild(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Write what differs.")] = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Read every event from the beginning; say which rows of the api differ, and mend them.

    Ends with 1 if rows differ and --apply was not given.
    """
    with answering(as_json=as_json):
        rebuilt = run(
            lambda operator: _asked(operator, apply=apply, reason=reason),
            as_json=as_json,
            data_dir=data_dir,
        )
        if as_json:
            print_json(told(rebuilt))
        else:
            for line in lines(rebuilt):
                print(line)
        if not rebuilt.identical and not apply:
            raise typer.Exit(Exit.FAILED)


async def _asked(operator: Operator, *, apply: bool, reason: str | None) -> RebuildReport:
    if not apply:
        return await _rebuilt(operator, apply=False)
    async with audited(operator, "rebuild", arguments={}, reason=reason) as row:
        rebuilt = await _rebuilt(operator, apply=True)
        await row.tell(told(rebuilt))
        return rebuilt


async def _rebuilt(operator: Operator, *, apply: bool) -> RebuildReport:
    database = operator.settings.database.model_copy(update={"timeout_s": STATEMENT_S})
    rebuilding = ProjectionRebuild(
        settings=operator.settings.model_copy(update={"database": database}),
        clock=operator.clock,
        log=operator.log,
        tell=telling(operator.say, "records"),
    )
    try:
        return await rebuilding.run(apply=apply)
    except RebuildError as error:
        raise CommandError(Exit.REFUSED, str(error)) from error
    except RetryableError as error:
        raise RetryableError(f"nothing was changed: {error}") from error.__cause__


def told(rebuilt: RebuildReport) -> dict[str, Any]:
    """The outcome for scripts."""
    return {**asdict(rebuilt), "identical": rebuilt.identical}


def lines(rebuilt: RebuildReport) -> list[str]:
    """The outcome in words."""
    found = [f"{rebuilt.records} records of epoch {rebuilt.epoch} read"]
    if rebuilt.partitions_cut:
        found.append(
            f"the first records of {rebuilt.partitions_cut} partitions are gone by age: "
            f"{rebuilt.jobs_left} older jobs were left as they are"
        )
    for name, table in rebuilt.tables.items():
        found.append(
            f"{name}: {table.same} the same, {table.different} different, {table.missing} missing, "
            f"{table.not_on_the_log} not on the log"
        )
        found += [f"  {example}" for example in table.examples]
    if rebuilt.identical:
        found.append("every row says what the log says")
    elif rebuilt.applied:
        found.append("written: every row says what the log says now")
    else:
        found.append("nothing was written; --apply --reason writes what differs")
    return found
