"""The dlq requeue command: publishes dead letters again to the topics they came from.

All waiting letters of a lane are requeued together, in order, and the lane is released behind
them. After an interruption the same command resumes.

I/O: Kafka, PostgreSQL, the store.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import RESUMABLE, CommandError, Exit
from ops.cli.job_id import check_job
from ops.cli.layout import Line, count_of, counted, figure
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Rate, Reason
from ops.cli.output import dry_run
from ops.cli.progress import progress_reporter
from ops.dead_letters.letter import DeadLetterSelection, Lane, RequeueSettings, read_letters
from ops.dead_letters.requeue import Requeue, RequeueRanges, parked_lanes
from ops.dead_letters.requeue_plan import (
    UNDER_WAY,
    RequeuePlan,
    plan_requeue,
    plan_resumed_requeue,
)
from ops.dead_letters.selection import (
    DiedOf,
    Job,
    Place,
    Run,
    Topic,
    build_selection,
    check_places,
    letters_of_job,
    stored_letters,
)
from ops.kafka_log.exclusive import acquire_exclusive, find_interrupted
from ops.kafka_log.republish import UNAVAILABLE, RepublishPlan
from services.api.operators import Action, dollars
from shared.errors import RetryableError
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader

COMMAND = "dlq requeue"


@dataclass(frozen=True, kw_only=True)
class RequeueOptions:
    """What is requeued, and how fast."""

    selection: DeadLetterSelection
    quarantined: bool
    rate: float | None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for the audit; an interrupted requeue is found by them."""
        return {**self.selection.as_json(), "quarantined": self.quarantined}


@dataclass(frozen=True, kw_only=True)
class RequeueWork:
    """The lanes to requeue, and the interrupted command that is resumed, if any."""

    plan: RequeuePlan
    ranges: RequeueRanges
    resumes: Action | None
    is_claimed: bool  #: the interrupted command has claimed the letters


def requeue(
    topic: Topic = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: DiedOf = None,
    place: Place = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Include quarantined dead letters.")
    ] = False,
    rate: Rate = None,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Requeue dead letters, each with all waiting letters of its run on that topic, in order.

    A record that fails again becomes a dead letter again. After an interruption
    the same command resumes.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json, interrupted=RESUMABLE
    ) as command:
        selection = build_selection(topic, job=job, run=run_, died_of=died_of, place=place)
        options = RequeueOptions(selection=selection, quarantined=quarantined, rate=rate)
        command.run(lambda operator: _requeue(operator, options), lines=lines)


async def _requeue(operator: Operator, options: RequeueOptions) -> dict[str, Any]:
    async with (
        operator.database.dedicated() as lock_holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if operator.apply:
            await acquire_exclusive(operator, lock_holder)
        work = await _find_work(operator, reader, options)
        result = await _result(operator, work)
        if not operator.apply:
            return result
        return await _apply(operator, reader, options, work, result)


async def _apply(
    operator: Operator,
    reader: LogReader,
    options: RequeueOptions,
    work: RequeueWork,
    result: dict[str, Any],
) -> dict[str, Any]:
    async with audited_action(
        operator,
        COMMAND,
        arguments=options.arguments(),
        resumes=work.resumes,
    ) as row:
        requeue = Requeue(
            operator=operator, reader=reader, row=row, ranges=work.ranges, lanes=work.plan.lanes
        )
        if not work.is_claimed:
            await requeue.claim()
        try:
            copied = await requeue.run(
                rate=options.rate,
                on_progress=progress_reporter(operator.report, "records requeued"),
            )
        except RetryableError as error:
            raise RetryableError(UNAVAILABLE.format(error=error)) from error.__cause__
    return {**result, "applied": True, "requeue": row.number, "copied": copied}


async def _find_work(operator: Operator, reader: LogReader, options: RequeueOptions) -> RequeueWork:
    selection = options.selection
    earlier = await find_interrupted(operator, COMMAND, options.arguments())
    ranges, resolved = await stored_letters(operator, reader, selection)
    on_progress = progress_reporter(operator.report, "dead letters read")
    letters = [
        letter
        async for letter in read_letters(reader, operator.store, ranges, on_progress=on_progress)
    ]
    if earlier is not None and any(claim.action == earlier.id for claim in resolved.values()):
        return RequeueWork(
            plan=plan_resumed_requeue(letters, resolved, action=earlier.id),
            ranges=RequeueRanges.of(earlier.progress),
            resumes=earlier,
            is_claimed=True,
        )
    check_places(selection, {letter.place for letter in letters}, resolved)
    plan = plan_requeue(
        letters,
        resolved,
        selection,
        requeues_max=RequeueSettings.from_environment().requeues_max,
        quarantined=options.quarantined,
    )
    parked = await parked_lanes(operator, _lanes(plan))
    open_lanes = [lane for lane, state in parked.items() if state is not None and state.open_for]
    plan.leave_out(open_lanes, reason=UNDER_WAY)
    if not plan.lanes:
        if not letters_of_job(letters, selection):
            await check_job(operator, selection.job_id)
        raise CommandError(
            Exit.REFUSED, _nothing_selected(plan), detail={"left_out": dict(plan.left_out)}
        )
    origins = await _origin_ranges(reader, plan)
    return RequeueWork(
        plan=plan,
        ranges=RequeueRanges(letters=ranges, origins=origins),
        resumes=earlier,
        is_claimed=False,
    )


def _lanes(plan: RequeuePlan) -> list[Lane]:
    return list({group[0].lane: None for group in plan.lanes if group[0].lane is not None})


async def _origin_ranges(reader: LogReader, plan: RequeuePlan) -> list[OffsetRange]:
    """Return what the partitions store now to which the records are requeued.

    Raises:
        CommandError: a topic or partition does not exist.
    """
    partitions = {letter.origin[:2] for lane in plan.lanes for letter in lane if letter.origin}
    stored = await reader.ranges_of(sorted({topic for topic, _ in partitions}))
    ranges = [
        offsets
        for topic in stored.values()
        for offsets in topic
        if (offsets.topic, offsets.partition) in partitions
    ]
    if missing := partitions - {(offsets.topic, offsets.partition) for offsets in ranges}:
        topic, partition = min(missing)
        raise CommandError(Exit.REFUSED, f"{topic} has no partition {partition}")
    return ranges


def _nothing_selected(plan: RequeuePlan) -> str:
    message = "; ".join(["no waiting dead letter is selected", *plan.reasons()])
    if plan.actions:
        actions = ", ".join(map(str, sorted(plan.actions)))
        message += f" (action {actions} of the audit): run that command again to resume it"
    return f"{message}; nothing was changed"


async def _result(operator: Operator, work: RequeueWork) -> dict[str, Any]:
    """Return the plan as the command's result."""
    plan, cost_plan, unreadable = work.plan, RepublishPlan(), 0
    for letter in (letter for lane in plan.lanes for letter in lane):
        if letter.summary is None or letter.lane is None:
            unreadable += 1
        else:
            cost_plan.add_summary(letter.lane.job_id, letter.lane.run, letter.summary)
    await cost_plan.compare_with_rows(operator)
    pricing = await operator.pricing()
    parked = await parked_lanes(operator, _lanes(plan))
    earlier = work.resumes
    return {
        "applied": False,
        "requeue": earlier and earlier.id,
        "resumes": earlier is not None,
        "letters": plan.letters,
        "lanes": [
            {**lane._asdict(), "is_parked": state is not None} for lane, state in parked.items()
        ],
        "added": plan.added,
        "unreadable": unreadable,
        "left_out": dict(plan.left_out),
        "why_left_out": plan.reasons(),
        "runs": dict(cost_plan.states),
        "already_done": cost_plan.already_done,
        "calls_at_most": cost_plan.calls_at_most,
        "cost_usd_at_most": cost_plan.cost_usd(pricing),
        "provider": pricing.provider,
        "copied": (earlier.progress.get("copied", 0) if earlier else 0),
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """Return the result as text."""
    parked = sum(lane["is_parked"] for lane in result["lanes"])
    runs = count_of(len(result["lanes"]), "run")
    text: list[Line] = [counted(result["letters"], "dead letter", f"of {runs}, {parked} parked")]
    if result["added"]:
        text.append(figure(result["added"], "of them added: a run is requeued as a whole"))
    if result["unreadable"]:
        text.append(figure(result["unreadable"], "of them not events: they will fail again"))
    text += [f"left out: {reason}" for reason in result["why_left_out"]]
    text += [counted(count, "run", status) for status, count in sorted(result["runs"].items())]
    text.append(figure(result["already_done"], "of them already done: 0 provider calls"))
    cost = dollars(result["cost_usd_at_most"])
    text.append(counted(result["calls_at_most"], "scene", f"to generate at most, at most {cost}"))
    copied = count_of(result["copied"], "record")
    if result["applied"]:
        return [*text, f"requeue {result['requeue']}: {copied} requeued"]
    if result["resumes"]:
        text.append(
            f"Requeue {result['requeue']} was interrupted after {copied}; --apply resumes it."
        )
    left = count_of(result["letters"] - result["copied"], "dead letter")
    return [*text, dry_run(f"{left} would be requeued", "requeue them")]
