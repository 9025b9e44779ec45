"""Redrive: the command that makes a part of a job again, and keeps the rest.

Dry by default: what would be made, what is kept, what it costs. Applied, it begins the job's next
run as the api does, rows and outbox in one transaction; the services do the rest when they are
there. Interrupted before its events were published, the same command goes on with that run.

I/O: PostgreSQL, Kafka and the store.
"""

import shlex
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, audited, run_with_operator
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.jobs.flush_outbox import flush_outbox
from ops.jobs.redrive_plan import check_kept, lines, plan_of
from services.api.operators import (
    Action,
    ActionState,
    LateStage,
    RedriveError,
    RedriveRequest,
    RequestInvalidError,
    audit,
    build_redrive_spec,
    start_redrive,
)
from services.api.operators import redrive as rows

COMMAND = "redrive"
Scene = Annotated[
    int | None, typer.Option(min=0, help="This scene alone; counted from 0, as in the api.")
]
From = Annotated[int | None, typer.Option("--from", min=0, help="This scene and all behind it.")]
Stage = Annotated[
    LateStage | None, typer.Option(help="No scene: the track, or only the video with its music.")
]


def redrive(
    job_id: str,
    *,
    scene: Scene = None,
    first: From = None,
    stage: Stage = None,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a part of JOB_ID again, as its next run, and keep the rest of its newest.

    Without an option: what the run that failed still lacks. A kept scene behind one that is made
    anew is bridged: both sound together for a moment where it begins.
    """
    with report_errors(as_json=as_json):
        named = {"--scene": scene, "--from": first, "--stage": stage}
        given = [option for option, value in named.items() if value is not None]
        if len(given) > 1:
            raise CommandError(Exit.USAGE, f"{' and '.join(given)}: name one of them")
        wish = RedriveRequest(scene=scene, first=first, stage=stage)
        told = run_with_operator(
            lambda operator: _redrive(operator, job_id, wish, apply=apply, reason=reason),
            as_json=as_json,
            data_dir=data_dir,
        )
        if as_json:
            print_json(told)
            return
        for line in lines(told):
            print(line)


async def _redrive(
    operator: Operator, job_id: str, wish: RedriveRequest, *, apply: bool, reason: str | None
) -> dict[str, Any]:
    async with operator.database.connection() as connection:
        earlier = await rows.previous_run(connection, job_id)
    if earlier is None:
        raise CommandError(Exit.REFUSED, f"there is no job {job_id}")
    arguments = {"job_id": job_id, **asdict(wish)}
    begun = await _interrupted(operator, arguments, run=earlier.run) if apply else None
    if begun is not None:
        return await _gone_on(operator, begun, reason=reason)
    try:
        asked = build_redrive_spec(earlier, wish)
        told = plan_of(asked, of_run=earlier.run, pricing=operator.settings.pricing)
        await check_kept(operator.store, asked, wish)
        if not apply:
            return {**told, "message": "nothing was begun; --apply --reason begins it"}
        return await _applied(operator, wish, told, arguments=arguments, reason=reason)
    except (RedriveError, RequestInvalidError) as error:
        raise CommandError(Exit.REFUSED, str(error)) from error


async def _applied(
    operator: Operator,
    wish: RedriveRequest,
    told: dict[str, Any],
    *,
    arguments: dict[str, Any],
    reason: str | None,
) -> dict[str, Any]:
    async with audited(operator, COMMAND, arguments=arguments, reason=reason) as row:
        told = {**told, "applied": True, "redrive": row.number}
        async with operator.database.transaction() as connection:
            await start_redrive(
                connection,
                told["job_id"],
                wish,
                of_run=told["of_run"],
                pricing=operator.settings.pricing,
                now=operator.clock.now(),
            )
            await audit.save_progress(connection, row.number, told)
        return {**told, "message": await _followed(operator, told)}


async def _gone_on(operator: Operator, begun: Action, *, reason: str | None) -> dict[str, Any]:
    """The run is there: what its command was interrupted in is done now."""
    async with audited(
        operator, COMMAND, arguments=begun.arguments, reason=reason, goes_on=begun.id
    ):
        told = dict(begun.progress)
        return {**told, "message": "begun before; " + await _followed(operator, told)}


async def _followed(operator: Operator, told: dict[str, Any]) -> str:
    """Publish what was asked for; how to follow it."""
    left = "" if await flush_outbox(operator) else "the api's relay publishes it; "
    job = shlex.quote(told["job_id"])
    return f"{left}follow run {told['run']} with: segue status {job} --watch"


async def _interrupted(operator: Operator, arguments: dict[str, Any], *, run: int) -> Action | None:
    """The redrive that began this run and did not come to its end, if it asked for the same."""
    async with operator.database.connection() as connection:
        begun = await audit.of_job(connection, arguments["job_id"], command=COMMAND)
    return next(
        (
            one
            for one in begun
            if one.state is not ActionState.DONE
            and one.progress.get("run") == run
            and one.arguments == arguments
        ),
        None,
    )
