"""Requeue: the command that puts dead letters back where they came from.

What waits of a lane goes together and in order, and the lane is released behind it. Dry by
default. The same command goes on where an interruption stopped it.

I/O: Kafka, PostgreSQL, the store.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import RESUMABLE, CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, audited, run_with_operator
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.progress import progress_reporter
from ops.dead_letters.letter import Lane, LetterSelection, RequeueSettings, letters_in
from ops.dead_letters.requeue import Requeue, Stretches, standing
from ops.dead_letters.requeue_plan import UNDER_WAY, Gathered, gather, gather_again
from ops.dead_letters.selection import (
    DiedOf,
    Job,
    Place,
    Run,
    Topic,
    check_places,
    looked_at,
    selected,
)
from ops.kafka_log.exclusive import alone, interrupted
from ops.kafka_log.replay_run import judge
from ops.kafka_log.selection import Plan
from services.api.operators import Action, dollars
from shared.errors import RetryableError
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader

COMMAND = "dlq requeue"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be done with the selection."""

    apply: bool
    quarantined: bool
    rate: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a command works on."""

    gathered: Gathered
    stretches: Stretches
    goes_on: Action | None
    is_marked: bool  #: the letters are the interrupted one's already


def requeue(
    topic: Topic = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: DiedOf = None,
    place: Place = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Though it failed again too often.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Records a second, at most.")] = None,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put dead letters back: with each, all that waits of its run there, in order.

    What is mended goes on; what fails again is a dead letter again, and counts up. After an
    interruption the same command goes on where it stopped.
    """
    with report_errors(as_json=as_json, interrupted=RESUMABLE):
        selection = selected(topic, job=job, run=run_, died_of=died_of, place=place)
        wish = Wish(apply=apply, quarantined=quarantined, rate=rate, reason=reason)
        told = run_with_operator(
            lambda operator: _requeue(operator, selection, wish), as_json=as_json, data_dir=data_dir
        )
        if as_json:
            print_json(told)
        else:
            print("\n".join(lines(told)))


async def _requeue(operator: Operator, selection: LetterSelection, wish: Wish) -> dict[str, Any]:
    async with (
        operator.database.dedicated() as holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if wish.apply:
            await alone(operator, holder)
        found = await _found(operator, reader, selection, wish)
        told = await _told(operator, found)
        if not wish.apply:
            return told
        return await _applied(operator, reader, selection, wish, found, told)


async def _applied(
    operator: Operator,
    reader: LogReader,
    selection: LetterSelection,
    wish: Wish,
    found: Found,
    told: dict[str, Any],
) -> dict[str, Any]:
    async with audited(
        operator,
        COMMAND,
        arguments=_arguments(selection, wish),
        reason=wish.reason,
        goes_on=None if found.goes_on is None else found.goes_on.id,
    ) as row:
        work = Requeue(
            operator=operator,
            reader=reader,
            row=row,
            stretches=found.stretches,
            lanes=found.gathered.lanes,
        )
        if not found.is_marked:
            await work.begin()
        try:
            copied = await work.run(
                rate=wish.rate, tell=progress_reporter(operator.report, "records put back")
            )
        except RetryableError as error:
            end = f"{error}; when it is back, the same command goes on where this stopped"
            raise RetryableError(end) from error.__cause__
    return {**told, "applied": True, "requeue": row.number, "copied": copied}


def _arguments(selection: LetterSelection, wish: Wish) -> dict[str, Any]:
    return {**selection.as_json(), "quarantined": wish.quarantined}


async def _found(
    operator: Operator, reader: LogReader, selection: LetterSelection, wish: Wish
) -> Found:
    earlier = await interrupted(operator, COMMAND, _arguments(selection, wish))
    spans, fates = await looked_at(operator, reader, selection)
    letters = [
        one
        async for one in letters_in(
            reader, spans, tell=progress_reporter(operator.report, "dead letters looked at")
        )
    ]
    if earlier is not None and any(one.action == earlier.id for one in fates.values()):
        return Found(
            gathered=gather_again(letters, fates, action=earlier.id),
            stretches=Stretches.of(earlier.progress),
            goes_on=earlier,
            is_marked=True,
        )
    check_places(selection, {letter.place for letter in letters}, fates)
    gathered = gather(
        letters,
        fates,
        selection,
        requeues_max=RequeueSettings.from_environment().requeues_max,
        quarantined=wish.quarantined,
    )
    lanes = {group[0].lane for group in gathered.lanes} - {None}
    stands = await standing(operator, [lane for lane in lanes if lane is not None])
    open_ = [lane for lane, one in stands.items() if one is not None and one.open_for]
    gathered.without(open_, why=UNDER_WAY)
    if not gathered.lanes:
        raise CommandError(
            Exit.REFUSED, _nothing(gathered), detail={"left_out": dict(gathered.left_out)}
        )
    stretches = Stretches(letters=spans, origins=await _origins(reader, gathered))
    return Found(gathered=gathered, stretches=stretches, goes_on=earlier, is_marked=False)


async def _origins(reader: LogReader, gathered: Gathered) -> list[OffsetRange]:
    """Where the records go, as it is now.

    Raises:
        CommandError: a topic or partition is not there.
    """
    wanted = {letter.origin[:2] for lane in gathered.lanes for letter in lane if letter.origin}
    found: list[OffsetRange] = []
    for topic in sorted({topic for topic, _ in wanted}):
        found += [one for one in await reader.ranges(topic) if (topic, one.partition) in wanted]
    if missing := wanted - {(one.topic, one.partition) for one in found}:
        topic, number = min(missing)
        raise CommandError(Exit.REFUSED, f"{topic} has no partition {number} on this Kafka")
    return found


def _nothing(gathered: Gathered) -> str:
    told = "; ".join(["no dead letter that waits is selected", *gathered.reasons()])
    if gathered.actions:
        some = ", ".join(map(str, sorted(gathered.actions)))
        told += f" ({some} of the audit): the same words as then go on with it"
    return f"{told}; nothing was changed"


async def _told(operator: Operator, found: Found) -> dict[str, Any]:
    """The plan for scripts."""
    gathered, plan = found.gathered, Plan()
    unreadable = 0
    for letter in (letter for lane in gathered.lanes for letter in lane):
        if letter.said is None or letter.lane is None:
            unreadable += 1
        else:
            plan.note(letter.lane.job_id, letter.lane.run, letter.said)
    await judge(operator, plan)
    cost = operator.settings.pricing.estimate(plan.scenes_s)
    lanes = [group[0].lane for group in gathered.lanes if group[0].lane is not None]
    stands = await standing(operator, lanes)
    earlier = found.goes_on
    return {
        "applied": False,
        "requeue": earlier and earlier.id,
        "goes_on": earlier is not None,
        "letters": gathered.letters,
        "lanes": [_lane(lane, is_parked=stands[lane] is not None) for lane in lanes],
        "taken_along": gathered.taken_along,
        "unreadable": unreadable,
        "left_out": dict(gathered.left_out),
        "why_left_out": gathered.reasons(),
        "runs": dict(plan.states),
        "already_done": plan.already_done,
        "calls_at_most": len(plan.scenes_s),
        "cost_usd_at_most": cost.cost_usd,
        "copied": (earlier.progress.get("copied", 0) if earlier else 0),
    }


def _lane(lane: Lane, *, is_parked: bool) -> dict[str, Any]:
    return {"topic": lane.topic, "job_id": lane.job_id, "run": lane.run, "is_parked": is_parked}


def lines(told: dict[str, Any]) -> list[str]:
    """The outcome in words."""
    parked = sum(lane["is_parked"] for lane in told["lanes"])
    found = [
        f"{told['letters']:>8} dead letters of {len(told['lanes'])} runs, {parked} of them parked"
    ]
    if told["taken_along"]:
        found.append(f"{told['taken_along']:>8} of them come along: a run goes back whole")
    if told["unreadable"]:
        found.append(f"{told['unreadable']:>8} of them are no events: they will die again")
    found += [f"left out: {reason}" for reason in told["why_left_out"]]
    found += [f"{count:>8} runs {status}" for status, count in sorted(told["runs"].items())]
    found.append(f"{told['already_done']:>8} ask for what is done or over: 0 calls")
    cost = dollars(told["cost_usd_at_most"])
    found.append(f"{told['calls_at_most']:>8} scenes may be made, for {cost} at most")
    if told["applied"]:
        found.append(f"requeue {told['requeue']}: {told['copied']} records put back")
    elif told["goes_on"]:
        found.append(
            f"requeue {told['requeue']} of these was interrupted after {told['copied']} records: "
            "--apply --reason goes on with it"
        )
    else:
        found.append("nothing was put back; --apply --reason puts them back")
    return found
