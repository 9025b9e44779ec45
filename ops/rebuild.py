"""Rebuild: the command that holds the api's rows against the log, and mends them if asked.

Dry by default. It needs the addresses of Kafka and PostgreSQL (and `SEGUE_TOPIC_PREFIX`, where
there is one); the api may run. Ctrl-C leaves every row as it was.

I/O: Kafka and PostgreSQL.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from ops.exits import CommandError, Exit, answering, print_json
from ops.options import Json
from ops.progress import telling
from services.api.rebuilding import RebuildError, Rebuilding, Rebuilt
from services.api.settings import ApiSettings, DatabaseSettings
from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.settings import KafkaSettings, TelemetrySettings
from shared.telemetry.log import configure, logger_of

STATEMENT_S = 600.0  # all rows are compared in one
Say = Callable[[str], None]


def rebuild(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Write what differs.")] = False,
    as_json: Json = False,
) -> None:
    """Read every event from the beginning; say which rows of the api differ, and mend them.

    Ends with 1 if rows differ and --apply was not given.
    """
    with answering(as_json=as_json):
        say = Console(quiet=as_json, soft_wrap=True, stderr=True).print
        rebuilt = asyncio.run(_rebuilt(apply=apply, say=say))
        if as_json:
            print_json(told(rebuilt))
        else:
            for line in lines(rebuilt):
                print(line)
        if not rebuilt.identical and not apply:
            raise typer.Exit(Exit.FAILED)


async def _rebuilt(*, apply: bool, say: Say) -> Rebuilt:
    configure(TelemetrySettings.from_environment(log_level="error"))
    database = DatabaseSettings.from_environment().model_copy(update={"timeout_s": STATEMENT_S})
    settings = ApiSettings.from_environment(
        kafka=KafkaSettings.from_environment(), database=database
    )
    rebuilding = Rebuilding(
        settings=settings, clock=SystemClock(), log=logger_of("api"), tell=telling(say, "records")
    )
    try:
        return await rebuilding.run(apply=apply)
    except RebuildError as error:
        raise CommandError(Exit.FAILED, str(error)) from error
    except RetryableError as error:
        raise CommandError(Exit.UNREACHABLE, f"nothing was changed: {error}") from error


def told(rebuilt: Rebuilt) -> dict[str, Any]:
    """The outcome for scripts."""
    return {**asdict(rebuilt), "identical": rebuilt.identical}


def lines(rebuilt: Rebuilt) -> list[str]:
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
        found.append("nothing was written; --apply writes what differs")
    return found
