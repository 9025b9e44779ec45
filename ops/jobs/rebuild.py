"""The rebuild command: compares the api's rows with the log, and corrects them with --apply.

The api may run meanwhile. Ctrl-C leaves every row unchanged.

I/O: Kafka and PostgreSQL.
"""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.layout import count_of
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.cli.progress import progress_reporter
from services.api.operators import ProjectionRebuild, RebuildError, RebuildReport
from shared.errors import RetryableError

STATEMENT_TIMEOUT_S = 600.0  # one statement compares all rows


def rebuild(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Write the rows that differ.")] = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare the api's rows with every event of the log; --apply corrects them.

    Exit code 1 if rows differ and --apply was not given.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        rebuilt = command.run(_audited_rebuild, lines=lines, document=as_document)
        if not rebuilt.identical and not apply:
            raise typer.Exit(Exit.FAILED)


async def _audited_rebuild(operator: Operator) -> RebuildReport:
    if not operator.apply:
        return await _rebuild(operator)
    async with audited_action(operator, "rebuild", arguments={}) as row:
        rebuilt = await _rebuild(operator)
        await row.save_progress(as_document(rebuilt))
        return rebuilt


async def _rebuild(operator: Operator) -> RebuildReport:
    database = operator.settings.database.model_copy(update={"timeout_s": STATEMENT_TIMEOUT_S})
    rebuilding = ProjectionRebuild(
        settings=operator.settings.model_copy(update={"database": database}),
        clock=operator.clock,
        log=operator.log,
        report_progress=progress_reporter(operator.report, "records read"),
    )
    try:
        return await rebuilding.run(apply=operator.apply)
    except RebuildError as error:
        raise CommandError(Exit.REFUSED, str(error)) from error
    except RetryableError as error:
        raise RetryableError(f"{error}; nothing was changed") from error.__cause__


def as_document(rebuilt: RebuildReport) -> dict[str, Any]:
    """Return the result for `--json` and the audit."""
    return {**asdict(rebuilt), "identical": rebuilt.identical}


def lines(rebuilt: RebuildReport) -> list[str]:
    """Return the result as text."""
    text = [f"{count_of(rebuilt.records, 'record')} of epoch {rebuilt.epoch} read"]
    if rebuilt.partitions_cut:
        text.append(
            "retention removed the first records of "
            f"{count_of(rebuilt.partitions_cut, 'partition')}: "
            f"{count_of(rebuilt.jobs_left, 'older job')} not compared"
        )
    for name, table in rebuilt.tables.items():
        text.append(
            f"{name}: {table.same} equal, {table.different} different, {table.missing} missing, "
            f"{table.not_on_the_log} not on the log"
        )
        text += [f"  {example}" for example in table.examples]
    if rebuilt.identical:
        text.append("All rows match the log.")
    elif rebuilt.applied:
        text.append("Corrected: all rows match the log now.")
    else:
        count = sum(table.different + table.missing for table in rebuilt.tables.values())
        text.append(dry_run(f"{count_of(count, 'row')} would be written", "write them"))
    return text
