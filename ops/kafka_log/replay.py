"""Replay: the command that says records again, after a failure.

What is finished is recognised by the services and costs nothing; what is not, goes on. Dry by
default. The same command goes on where an interruption stopped it.

I/O: Kafka and PostgreSQL.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import RESUMABLE, CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, audited, run_with_operator
from ops.cli.options import Apply, DataDir, Json, Moment, Reason, utc
from ops.cli.progress import progress_reporter
from ops.kafka_log.exclusive import alone, interrupted
from ops.kafka_log.replay_run import Replay, progress, spans_of
from ops.kafka_log.selection import Picker, Plan, Selection
from services.api.operators import Action, dollars
from shared.errors import RetryableError
from shared.kafka.log_reader import LogReader, open_log_reader

COMMAND = "replay"
RUNNING_NAMED = 5
Topic = Annotated[
    str | None, typer.Argument(metavar="[TOPIC]", help="Without it: a job's whole line.")
]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be done with the selection."""

    apply: bool
    force: bool
    anew: bool
    rate: float | None
    reason: str | None


def replay(
    topic: Topic = None,
    *,
    job: Annotated[str | None, typer.Option(help="Only records of this job.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only of this partition.")] = None,
    from_offset: Annotated[int | None, typer.Option(min=0, help="The first.")] = None,
    to_offset: Annotated[int | None, typer.Option(min=0, help="Before this one.")] = None,
    since: Moment = None,
    until: Moment = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Records a second, at most.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Though jobs of it are running.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="From its beginning, though one was interrupted.")
    ] = False,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say records of TOPIC again, on the same topic and partition, in their order.

    Work that is done is recognised and neither paid nor changed. After an interruption the same
    command goes on where it stopped.
    """
    with report_errors(as_json=as_json, interrupted=RESUMABLE):
        selection = Selection(
            topic=topic,
            job_id=job,
            partition=partition,
            from_offset=from_offset,
            to_offset=to_offset,
            since=utc(since),
            until=utc(until),
        )
        wish = Wish(apply=apply, force=force, anew=anew, rate=rate, reason=reason)
        told = run_with_operator(
            lambda operator: _replay(operator, selection, wish), as_json=as_json, data_dir=data_dir
        )
        if as_json:
            print_json(told)
        else:
            for line in lines(told):
                print(line)


async def _replay(operator: Operator, selection: Selection, wish: Wish) -> dict[str, Any]:
    selection.check(now=operator.clock.now())
    async with (
        operator.database.dedicated() as holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if wish.apply:
            await alone(operator, holder)
        arguments = selection.as_json()
        earlier = None if wish.anew else await interrupted(operator, COMMAND, arguments)
        spans = await selection.spans(reader) if earlier is None else spans_of(earlier.progress)
        work = Replay(operator=operator, selection=selection, spans=spans)
        plan, picker = await work.plan(
            reader, tell=progress_reporter(operator.report, "records looked at")
        )
        told = _told(operator, plan, picker, goes_on=earlier)
        if not wish.apply:
            return told
        if plan.running and earlier is None and not wish.force:
            raise CommandError(Exit.REFUSED, _running(plan), detail=told)
        return await _applied(work, reader, wish, told, goes_on=earlier)


async def _applied(
    work: Replay, reader: LogReader, wish: Wish, told: dict[str, Any], *, goes_on: Action | None
) -> dict[str, Any]:
    operator, total = work.operator, told["records"]
    async with audited(
        operator,
        COMMAND,
        arguments=work.selection.as_json(),
        reason=wish.reason,
        goes_on=None if goes_on is None else goes_on.id,
    ) as row:
        if goes_on is None:
            await row.save_progress(progress(work.spans, total=total, copied=0))
        try:
            copied = await work.copy(
                reader,
                row,
                total=total,
                rate=wish.rate,
                tell=progress_reporter(operator.report, "records said again"),
            )
        except RetryableError as error:
            end = f"{error}; when it is back, the same command goes on where this stopped"
            raise RetryableError(end) from error.__cause__
        await row.save_progress(progress(work.spans, total=total, copied=copied))
    return {**told, "applied": True, "replay": row.number, "copied": copied}


def _told(
    operator: Operator, plan: Plan, picker: Picker, *, goes_on: Action | None
) -> dict[str, Any]:
    """The plan for scripts.

    Raises:
        CommandError: nothing is selected.
    """
    records = sum(plan.records.values())
    left_out = {
        "not_events": picker.not_events,
        "copies": picker.copies,
        "repeats": picker.repeats,
    }
    if not records:
        raise CommandError(Exit.REFUSED, _nothing(picker), detail={"left_out": left_out})
    cost = operator.settings.pricing.estimate(plan.scenes_s)
    return {
        "applied": False,
        "replay": goes_on and goes_on.id,
        "goes_on": goes_on is not None,
        "records": records,
        "topics": dict(plan.records),
        "left_out": left_out,
        "already_done": plan.already_done,
        "runs": dict(plan.states),
        "running_jobs": sorted(set(plan.running))[:RUNNING_NAMED],
        "calls_at_most": len(plan.scenes_s),
        "cost_usd_at_most": cost.cost_usd,
        "copied": (goes_on.progress.get("copied", 0) if goes_on else 0),
    }


def _nothing(picker: Picker) -> str:
    told = "these bounds select nothing"
    if picker.selection.job_id is not None:
        told = f"no record of job {picker.selection.job_id} is selected"
    if picker.copies:
        told += f" but {picker.copies} copies of earlier replays, whose origins are still there"
    if picker.not_events:
        told += f"; {picker.not_events} records there are no events and are not said again"
    return told


def _running(plan: Plan) -> str:
    names = sorted(set(plan.running))
    more = f" and {len(names) - RUNNING_NAMED} more" if len(names) > RUNNING_NAMED else ""
    some = ", ".join(names[:RUNNING_NAMED]) + more
    return f"still running: {some}; wait for them, or say it again all the same with --force"


def lines(told: dict[str, Any]) -> list[str]:
    """The outcome in words."""
    found = [f"{count:>8} records of {topic}" for topic, count in told["topics"].items()]
    found.append(f"{told['already_done']:>8} of them ask for what is done: 0 calls")
    left_out = told["left_out"]
    if left_out["not_events"]:
        found.append(f"{left_out['not_events']:>8} records are no events: left out")
    if left_out["copies"]:
        found.append(f"{left_out['copies']:>8} are copies of earlier replays: left out")
    if left_out["repeats"]:
        found.append(f"{left_out['repeats']:>8} say once more what others of them say: left out")
    found += [f"{count:>8} runs {status}" for status, count in sorted(told["runs"].items())]
    cost = dollars(told["cost_usd_at_most"])
    found.append(f"{told['calls_at_most']:>8} scenes may be made, for {cost} at most")
    if told["applied"]:
        found.append(f"replay {told['replay']}: {told['copied']} records said again")
    elif told["goes_on"]:
        found.append(
            f"replay {told['replay']} of these was interrupted after {told['copied']} records: "
            "--apply --reason goes on with it, --anew begins again"
        )
    else:
        found.append("nothing was said; --apply --reason says them again")
    if told["running_jobs"] and not told["applied"]:
        found.append(f"still running: {', '.join(told['running_jobs'])}: needs --force")
    return found
