"""Discard: the command that puts dead letters away: they stay in the log, and wait no more.

A run that is parked stays so, unless it is released; its job has failed already, and asking for
it again begins a new run, which is not parked. Dry by default.

I/O: Kafka, PostgreSQL, the store.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, audited, run_with_operator
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.progress import progress_reporter
from ops.dead_letters.letter import Lane, Letter, LetterSelection, letters_in
from ops.dead_letters.requeue import standing
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
from services.api.operators import Action, ClaimedLetter, Resolution, ResolvedLetter
from services.api.operators import dead_letters as rows
from shared.kafka.log_reader import LogReader, open_log_reader
from shared.kafka.parked_runs import ParkedRuns

COMMAND = "dlq discard"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be done with the selection."""

    apply: bool
    release: bool
    reason: str | None


@dataclass(kw_only=True)
class Found:
    """What is to be put away."""

    letters: list[Letter]
    released: list[Lane]  #: parked lanes that may go on
    kept: list[Lane]  #: that stay parked
    left_out: Counter[str]


def discard(
    topic: Topic = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: DiedOf = None,
    place: Place = None,
    release: Annotated[
        bool, typer.Option("--release", help="Let runs go on of which nothing waits any more.")
    ] = False,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put dead letters away: they are listed no more and cannot be requeued.

    Their runs stay parked without --release. The jobs have failed already: whoever asks for one
    again begins a new run.
    """
    with report_errors(as_json=as_json):
        selection = selected(topic, job=job, run=run_, died_of=died_of, place=place)
        wish = Wish(apply=apply, release=release, reason=reason)
        told = run_with_operator(
            lambda operator: _discard(operator, selection, wish), as_json=as_json, data_dir=data_dir
        )
        if as_json:
            print_json(told)
        else:
            print("\n".join(lines(told)))


async def _discard(operator: Operator, selection: LetterSelection, wish: Wish) -> dict[str, Any]:
    arguments = {**selection.as_json(), "release": wish.release}
    async with (
        operator.database.dedicated() as holder,
        open_log_reader(operator.kafka, client_id="segue-ops") as reader,
    ):
        if wish.apply:
            await alone(operator, holder)
        earlier = await interrupted(operator, COMMAND, arguments)
        found = await _found(operator, reader, selection, wish, earlier)
    told = _told(found)
    if not wish.apply:
        return told
    async with audited(
        operator,
        COMMAND,
        arguments=arguments,
        reason=wish.reason,
        goes_on=None if earlier is None else earlier.id,
    ) as row:
        await row.save_progress({"spans": [], "letters": len(found.letters)})
        await _put_away(operator, found, row.number)
    return {**told, "applied": True, "discard": row.number}


async def _found(
    operator: Operator,
    reader: LogReader,
    selection: LetterSelection,
    wish: Wish,
    earlier: Action | None,
) -> Found:
    spans, fates = await looked_at(operator, reader, selection)
    tell = progress_reporter(operator.report, "dead letters looked at")
    letters = [one async for one in letters_in(reader, spans, tell=tell)]
    if not wish.release and earlier is None:
        check_places(selection, {letter.place for letter in letters}, fates)
    chosen, left_out, lanes = list[Letter](), Counter[str](), dict[Lane, None]()
    for letter in filter(selection.takes, letters):
        fated = fates.get(letter.place)
        is_ours = fated is not None and earlier is not None and fated.action == earlier.id
        if fated is None or is_ours:
            chosen.append(letter)
        elif not (wish.release and fated.is_done):
            left_out[_why(fated)] += 1
            continue
        if letter.lane is not None:
            lanes[letter.lane] = None
    gone = {letter.place for letter in chosen}
    waiting = {one.lane for one in letters if one.place not in {*gone, *fates}}
    parked = {lane: one for lane, one in (await standing(operator, lanes)).items() if one}
    released = [lane for lane in parked if wish.release and lane not in waiting]
    if not chosen and not released:
        some = [f"{count} {why}" for why, count in left_out.items()]
        told = "; ".join(["no dead letter that waits is selected", *some, "nothing was changed"])
        raise CommandError(Exit.REFUSED, told, detail={"left_out": dict(left_out)})
    kept = [lane for lane in parked if lane not in released]
    return Found(letters=chosen, released=released, kept=kept, left_out=left_out)


def _why(fated: ResolvedLetter) -> str:
    if not fated.is_done:
        return f"belong to {fated.action} of the audit, which was interrupted"
    return f"were {fated.resolution.value} already"


async def _put_away(operator: Operator, found: Found, number: int) -> None:
    """Mark all or none, then release, then say that it is done."""
    marked = [
        ClaimedLetter(
            place=one.place, job_id=one.lane and one.lane.job_id, run=one.lane and one.lane.run
        )
        for one in found.letters
    ]
    epoch, now = operator.kafka.epoch, operator.clock.now()
    async with operator.database.transaction() as connection:
        await rows.claim(
            connection, epoch, marked, resolution=Resolution.DISCARDED, action=number, now=now
        )
    parked = ParkedRuns(operator.store)
    for lane in found.released:
        await parked.release(lane.job_id, lane.run, lane.topic)
    async with operator.database.connection() as connection:
        await rows.complete(connection, epoch, [one.place for one in found.letters], now=now)


def _told(found: Found) -> dict[str, Any]:
    """The plan for scripts."""
    return {
        "applied": False,
        "letters": len(found.letters),
        "left_out": dict(found.left_out),
        "released": [lane._asdict() for lane in found.released],
        "stay_parked": [lane._asdict() for lane in found.kept],
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The outcome in words."""
    found = [f"{told['letters']:>8} dead letters"]
    found += [f"{count:>8} {why}: left out" for why, count in told["left_out"].items()]
    if told["released"]:
        found.append(f"{len(told['released']):>8} runs are released")
    if told["stay_parked"]:
        some = len(told["stay_parked"])
        found.append(f"{some:>8} runs stay parked: --release, once nothing of them waits")
    if told["applied"]:
        found.append(
            f"discard {told['discard']}: put away; asking for a job again begins a new run"
        )
    else:
        found.append("nothing was put away; --apply --reason does it")
    return found
