"""Dlq: the commands about dead letters: what they died of, one in full, put back, put away.

I/O: Kafka, PostgreSQL, the store.
"""

from collections import Counter
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import HELP, CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, run_with_operator
from ops.cli.options import DataDir, Json
from ops.cli.progress import progress_reporter
from ops.dead_letters.discard import discard
from ops.dead_letters.letter import (
    Letter,
    LetterSelection,
    LetterState,
    RequeueSettings,
    key_of,
    letters_in,
    parsed,
)
from ops.dead_letters.requeue_command import requeue
from ops.dead_letters.selection import Job, Run, looked_at
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader

REASON_CHARS = 120  # of a line; `show` has all of it
STILL_THERE = frozenset({LetterState.WAITING, LetterState.QUARANTINED, LetterState.INTERRUPTED})
dlq = typer.Typer(help="Dead letters: list, show, requeue, discard.", no_args_is_help=True)
dlq.command(epilog=HELP)(requeue)
dlq.command(epilog=HELP)(discard)


@dlq.command(name="list", epilog=HELP)
def list_letters(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Whose dead letters; else all.")
    ] = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: Annotated[
        str | None,
        typer.Option("--died-of", "--reason", help="Only those whose reason has this."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Those too that were requeued or discarded.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say how many dead letters wait, of which reason, and list the newest."""
    with report_errors(as_json=as_json):
        selection = LetterSelection(topic=topic, job_id=job, run=run_, died_of=died_of)
        _ = selection.topics

        async def body(operator: Operator) -> dict[str, Any]:
            return await _listed(operator, selection, every=every, limit=limit)

        told = run_with_operator(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told)
            return
        for line in lines(told):
            print(line)


@dlq.command(epilog=HELP)
def show(
    place: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As in list.")],
    *,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: key, value, and every header, the original ones too."""
    with report_errors(as_json=as_json):
        topic, number, offset = parsed(place)

        async def body(operator: Operator) -> dict[str, Any]:
            async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
                for span in await reader.ranges(topic):
                    if span.partition == number and span.start <= offset < span.end:
                        return await _one(operator, reader, span, offset)
            raise CommandError(Exit.REFUSED, f"there is no dead letter {place}")

        told = run_with_operator(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told)
            return
        for name, value in told["headers"]:
            print(f"{name}: {value}")
        by = f" by {told['action']} of the audit" if told["action"] else ""
        print(f"\n{told['state']}{by}\nkey: {told['key']}\n{told['value']}")


def lines(told: dict[str, Any]) -> list[str]:
    """The list in words."""
    found = [f"{told['count']} dead letters"]
    found += [f"{count:>8} {name}" for name, count in told["reasons"].items()]
    found += [f"{count:>8} {name}" for name, count in told["states"].items()]
    for one in told["letters"]:
        reason = one["reason"].splitlines()[0][:REASON_CHARS] if one["reason"] else ""
        state = "" if one["state"] == LetterState.WAITING else f" ({one['state']})"
        found.append(f"{one['at'][:19]}  {one['place']}{state}  job {one['job_id']}: {reason}")
    return found


async def _listed(
    operator: Operator, selection: LetterSelection, *, every: bool, limit: int
) -> dict[str, Any]:
    requeues_max = RequeueSettings.from_environment().requeues_max
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        spans, fates = await looked_at(operator, reader, selection)
        tell = progress_reporter(operator.report, "dead letters looked at")
        found: list[tuple[Letter, LetterState]] = []
        async for letter in letters_in(reader, spans, tell=tell):
            state = letter.state(fates.get(letter.place), requeues_max=requeues_max)
            if selection.takes(letter):
                found.append((letter, state))
    shown = [(letter, state) for letter, state in found if every or state in STILL_THERE]
    newest = sorted(shown, key=lambda one: one[0].at, reverse=True)[:limit]
    return {
        "count": len(shown),
        "reasons": dict(Counter(letter.exception for letter, _ in shown).most_common()),
        "states": dict(Counter(state.value for _, state in found).most_common()),
        "letters": [{**letter.as_json(), "state": state.value} for letter, state in newest],
    }


async def _one(
    operator: Operator, reader: LogReader, span: OffsetRange, offset: int
) -> dict[str, Any]:
    only = OffsetRange(topic=span.topic, partition=span.partition, start=offset, end=offset + 1)
    _, fates = await looked_at(operator, reader, LetterSelection(topic=span.topic))
    async for records in reader.read(only):
        record, letter = records[0], Letter.of(records[0])
        fated = fates.get(letter.place)
        requeues_max = RequeueSettings.from_environment().requeues_max
        headers = [[name, value.decode(errors="replace")] for name, value in record.headers]
        value = None if record.value is None else record.value.decode(errors="replace")
        return {
            **letter.as_json(),
            "state": letter.state(fated, requeues_max=requeues_max).value,
            "action": fated and fated.action,
            "key": key_of(record),
            "value": value,
            "headers": headers,
        }
    raise CommandError(Exit.REFUSED, f"the record {span.topic}/{span.partition}/{offset} is gone")
