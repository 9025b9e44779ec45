"""The dlq discard command: resolves dead letters without requeueing them; they stay in Kafka.

A parked run stays parked unless it is released. Its job has failed already; requesting the job
again starts a new run, which is not parked.

I/O: Kafka, PostgreSQL, the store.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.job_id import check_job
from ops.cli.layout import Line, count_of, counted
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.cli.progress import progress_reporter
from ops.dead_letters.letter import DeadLetter, DeadLetterSelection, Lane, read_letters
from ops.dead_letters.requeue import claimed_letter, parked_lanes
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
from services.api.operators import Action, Resolution, ResolvedLetter
from services.api.operators import dead_letters as rows
from shared.kafka.log_reader import LogReader, open_log_reader
from shared.kafka.parked_runs import ParkedRuns

COMMAND = "dlq discard"


@dataclass(kw_only=True)
class DiscardPlan:
    """The letters to discard, and what becomes of their parked lanes."""

    letters: list[DeadLetter]
    released: list[Lane]
    still_parked: list[Lane]
    left_out: Counter[str]


def discard(
    topic: Topic = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: DiedOf = None,
    place: Place = None,
    release: Annotated[
        bool, typer.Option("--release", help="Release parked runs that have no waiting letter.")
    ] = False,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Discard dead letters: they are no longer listed and cannot be requeued.

    Without --release their runs stay parked. The jobs have failed already;
    requesting one again starts a new run.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        selection = build_selection(topic, job=job, run=run_, died_of=died_of, place=place)
        command.run(lambda operator: _discard(operator, selection, release=release), lines=lines)


async def _discard(
    operator: Operator, selection: DeadLetterSelection, *, release: bool
) -> dict[str, Any]:
    arguments = {**selection.as_json(), "release": release}
    async with (
        operator.database.dedicated() as lock_holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if operator.apply:
            await acquire_exclusive(operator, lock_holder)
        earlier = await find_interrupted(operator, COMMAND, arguments)
        plan = await _plan(operator, reader, selection, release=release, earlier=earlier)
        result = _result(plan)
        if not operator.apply:
            return result
        async with audited_action(operator, COMMAND, arguments=arguments, resumes=earlier) as row:
            await row.save_progress({"spans": [], "letters": len(plan.letters)})
            await _apply(operator, plan, row.number)
        return {**result, "applied": True, "discard": row.number}


async def _plan(
    operator: Operator,
    reader: LogReader,
    selection: DeadLetterSelection,
    *,
    release: bool,
    earlier: Action | None,
) -> DiscardPlan:
    ranges, resolved = await stored_letters(operator, reader, selection)
    on_progress = progress_reporter(operator.report, "dead letters read")
    letters = [
        letter
        async for letter in read_letters(reader, operator.store, ranges, on_progress=on_progress)
    ]
    if not release and earlier is None:
        check_places(selection, {letter.place for letter in letters}, resolved)
    selected, left_out, lanes = list[DeadLetter](), Counter[str](), dict[Lane, None]()
    for letter in filter(selection.matches, letters):
        claim = resolved.get(letter.place)
        is_resumed = claim is not None and earlier is not None and claim.action == earlier.id
        if claim is None or is_resumed:
            selected.append(letter)
        elif not (release and claim.is_done):
            left_out[_exclusion(claim)] += 1
            continue
        if letter.lane is not None:
            lanes[letter.lane] = None
    discarded = {letter.place for letter in selected}
    waiting = {letter.lane for letter in letters if letter.place not in {*discarded, *resolved}}
    parked = [lane for lane, state in (await parked_lanes(operator, lanes)).items() if state]
    released = [lane for lane in parked if release and lane not in waiting]
    if not selected and not released:
        if not letters_of_job(letters, selection):
            await check_job(operator, selection.job_id)
        reasons = [f"{count} {reason}" for reason, count in left_out.items()]
        message = "; ".join(["no waiting dead letter is selected", *reasons, "nothing was changed"])
        raise CommandError(Exit.REFUSED, message, detail={"left_out": dict(left_out)})
    still_parked = [lane for lane in parked if lane not in released]
    return DiscardPlan(
        letters=selected, released=released, still_parked=still_parked, left_out=left_out
    )


def _exclusion(claim: ResolvedLetter) -> str:
    if not claim.is_done:
        return f"claimed by the interrupted action {claim.action} of the audit"
    return f"already {claim.resolution.value}"


async def _apply(operator: Operator, plan: DiscardPlan, number: int) -> None:
    """Claim the letters, release the lanes, then complete the letters; under the lock."""
    epoch, now = operator.kafka.epoch, operator.clock.now()
    async with operator.database.transaction() as connection:
        await rows.claim(
            connection,
            epoch,
            [claimed_letter(letter) for letter in plan.letters],
            resolution=Resolution.DISCARDED,
            action=number,
            now=now,
        )
    parked = ParkedRuns(operator.store)
    for lane in plan.released:
        await parked.release(lane.job_id, lane.run, lane.topic)
    async with operator.database.connection() as connection:
        places = [letter.place for letter in plan.letters]
        await rows.complete(connection, epoch, places, now=now)


def _result(plan: DiscardPlan) -> dict[str, Any]:
    """Return the plan as the command's result."""
    return {
        "applied": False,
        "letters": len(plan.letters),
        "left_out": dict(plan.left_out),
        "released": [lane._asdict() for lane in plan.released],
        "stay_parked": [lane._asdict() for lane in plan.still_parked],
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """Return the result as text."""
    letters, released = result["letters"], len(result["released"])
    text: list[Line] = [counted(letters, "dead letter")]
    text += [f"left out: {count} {reason}" for reason, count in result["left_out"].items()]
    if released:
        outcome = "released" if result["applied"] else "to release"
        text.append(counted(released, "run", outcome))
    if count := len(result["stay_parked"]):
        verb = "stays" if count == 1 else "stay"
        outcome = f"{verb} parked; --release releases those without waiting letters"
        text.append(counted(count, "run", outcome))
    discarded = count_of(letters, "dead letter")
    if result["applied"]:
        return [*text, f"discard {result['discard']}: {discarded} discarded"]
    return [*text, dry_run(f"{discarded} would be discarded", "discard them")]
