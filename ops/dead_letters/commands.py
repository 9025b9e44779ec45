"""The `segue dlq` commands: list and show; requeue and discard have their own modules.

I/O: Kafka and PostgreSQL.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import HELP, CommandError, Exit
from ops.cli.job_id import check_job
from ops.cli.layout import Hanging, Line, count_of, figure
from ops.cli.operator import Operator, operator_command
from ops.cli.options import DataDir, Json
from ops.cli.progress import progress_reporter
from ops.cli.times import format_time
from ops.dead_letters.discard import discard
from ops.dead_letters.letter import (
    DeadLetter,
    DeadLetterSelection,
    DeadLetterState,
    RequeueSettings,
    key_of,
    parse_place,
    place_text,
    read_letters,
)
from ops.dead_letters.requeue_command import requeue
from ops.dead_letters.selection import Job, Run, stored_letters
from services.api.operators import LetterPlace
from shared.kafka.log_reader import LogReader, OffsetRange, open_log_reader
from shared.kafka.original_records import restore_original

UNRESOLVED = frozenset(
    {DeadLetterState.WAITING, DeadLetterState.QUARANTINED, DeadLetterState.INTERRUPTED}
)
dlq = typer.Typer(help="List, show, requeue and discard dead letters.", no_args_is_help=True)
dlq.command(epilog=HELP)(requeue)
dlq.command(epilog=HELP)(discard)


@dlq.command(name="list", epilog=HELP)
def list_letters(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Only of this topic; default: all.")
    ] = None,
    *,
    job: Job = None,
    run_: Run = None,
    died_of: Annotated[
        str | None,
        typer.Option("--died-of", "--reason", help="Only those whose reason contains this text."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Include requeued and discarded dead letters.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="List at most N.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count the waiting dead letters by reason, and list them: of each job the cause first."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        selection = DeadLetterSelection(topic=topic, job_id=job, run=run_, died_of=died_of)
        _ = selection.topics
        command.run(
            lambda operator: _list(operator, selection, every=every, limit=limit), lines=lines
        )


@dlq.command(epilog=HELP)
def show(
    place: Annotated[
        str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As segue dlq list prints it.")
    ],
    *,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter in full: key, value and every header."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        parsed = parse_place(place)
        command.run(lambda operator: _show(operator, parsed), lines=letter_lines)


def lines(result: dict[str, Any]) -> Iterator[Line]:
    """Yield the list as text: of each job the oldest first, which is the cause."""
    yield count_of(result["count"], "dead letter")
    for counts in (result["reasons"], result["states"]):
        yield from (figure(count, name) for name, count in counts.items())
    for letter in result["letters"]:
        reason = letter["reason"].splitlines()[0] if letter["reason"] else ""
        state = "" if letter["state"] == DeadLetterState.WAITING else f" ({letter['state']})"
        at = format_time(datetime.fromisoformat(letter["at"]))
        yield Hanging(f"{at}  ", f"{letter['place']}{state}  job {letter['job_id']}: {reason}")


def letter_lines(result: dict[str, Any]) -> Iterator[Line]:
    """Yield one dead letter as text."""
    yield from (Hanging(f"{name}: ", value) for name, value in result["headers"])
    action = f" by action {result['action']} of the audit" if result["action"] else ""
    yield f"\n{result['state']}{action}\nkey: {result['key']}"
    yield str(result["value"])


def oldest_first(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Return the letters by job, the job with the newest letter first, of each the oldest first.

    Within a job the oldest letter is the cause: later records are parked behind it.
    """
    newest: dict[str | None, datetime] = {}
    for letter in letters:
        newest[letter.job_id] = max(newest.get(letter.job_id, letter.at), letter.at)
    by_age = sorted(letters, key=lambda letter: (letter.at, *letter.place))
    return sorted(
        by_age, key=lambda letter: (newest[letter.job_id], letter.job_id or ""), reverse=True
    )


async def _list(
    operator: Operator, selection: DeadLetterSelection, *, every: bool, limit: int
) -> dict[str, Any]:
    requeues_max = RequeueSettings.from_environment().requeues_max
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        ranges, resolved = await stored_letters(operator, reader, selection)
        on_progress = progress_reporter(operator.report, "dead letters read")
        selected: list[tuple[DeadLetter, DeadLetterState]] = []
        async for letter in read_letters(reader, operator.store, ranges, on_progress=on_progress):
            if selection.matches(letter):
                state = letter.state(resolved.get(letter.place), requeues_max=requeues_max)
                selected.append((letter, state))
    listed = [(letter, state) for letter, state in selected if every or state in UNRESOLVED]
    if not selected:
        await check_job(operator, selection.job_id)
    states = {letter.place: state for letter, state in listed}
    shown = oldest_first([letter for letter, _ in listed])[:limit]
    return {
        "count": len(listed),
        "reasons": dict(Counter(letter.exception for letter, _ in listed).most_common()),
        "states": dict(Counter(state.value for _, state in selected).most_common()),
        "letters": [{**letter.as_json(), "state": states[letter.place].value} for letter in shown],
    }


async def _show(operator: Operator, place: LetterPlace) -> dict[str, Any]:
    topic, partition, offset = place
    async with open_log_reader(operator.kafka, client_id="segue-ops") as reader:
        for stored in await reader.ranges(topic):
            if stored.partition == partition and stored.start <= offset < stored.end:
                return await _read_letter(operator, reader, place)
    raise CommandError(Exit.REFUSED, f"dead letter {place_text(place)} not found")


async def _read_letter(operator: Operator, reader: LogReader, place: LetterPlace) -> dict[str, Any]:
    topic, partition, offset = place
    only = OffsetRange(topic=topic, partition=partition, start=offset, end=offset + 1)
    _, resolved = await stored_letters(operator, reader, DeadLetterSelection(topic=topic))
    async for records in reader.read(only):
        record = await restore_original(operator.store, records[0])
        letter = DeadLetter.of(record)
        resolution = resolved.get(letter.place)
        requeues_max = RequeueSettings.from_environment().requeues_max
        headers = [
            [name, None if value is None else value.decode(errors="replace")]
            for name, value in record.headers
        ]
        value = None if record.value is None else record.value.decode(errors="replace")
        return {
            **letter.as_json(),
            "state": letter.state(resolution, requeues_max=requeues_max).value,
            "action": resolution and resolution.action,
            "key": key_of(record),
            "value": value,
            "headers": headers,
        }
    raise CommandError(Exit.REFUSED, f"dead letter {place_text(place)} not found")
