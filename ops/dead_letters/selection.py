"""Options that select dead letters, and what Kafka and PostgreSQL store of them.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator
from ops.dead_letters.letter import DeadLetter, DeadLetterSelection, parse_place, place_text
from services.api.operators import LetterPlace, ResolvedLetter
from services.api.operators import dead_letters as rows
from shared.kafka.log_reader import LogReader, OffsetRange

Topic = Annotated[
    str | None, typer.Argument(metavar="[TOPIC]", help="Only dead letters of this topic.")
]
Job = Annotated[str | None, typer.Option(help="Only of this job.")]
Run = Annotated[int | None, typer.Option("--run", min=1, help="Only of this run of the job.")]
DiedOf = Annotated[str | None, typer.Option(help="Only those whose reason contains this text.")]
Place = Annotated[
    list[str] | None,
    typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Only this one; may be repeated."),
]


def build_selection(
    topic: str | None,
    *,
    job: str | None,
    run: int | None,
    died_of: str | None,
    place: list[str] | None,
) -> DeadLetterSelection:
    """Return the selection that the options describe.

    Raises:
        CommandError: the options select everything, or an unknown topic or place.
    """
    selection = DeadLetterSelection(
        topic=topic,
        job_id=job,
        run=run,
        died_of=died_of,
        places=tuple(dict.fromkeys(map(parse_place, place or ()))),
    )
    selection.check()
    return selection


async def stored_letters(
    operator: Operator, reader: LogReader, selection: DeadLetterSelection
) -> tuple[list[OffsetRange], dict[LetterPlace, ResolvedLetter]]:
    """Return the ranges of the selected topics, and the letters that are already resolved."""
    stored = await reader.ranges_of(selection.topics)
    ranges = [offsets for topic in selection.topics for offsets in stored[topic]]
    async with operator.database.connection() as connection:
        resolved = await rows.resolutions(connection, operator.kafka.epoch, selection.topics)
    return ranges, dict(resolved)


def letters_of_job(
    letters: Iterable[DeadLetter], selection: DeadLetterSelection
) -> list[DeadLetter]:
    """Return the letters of the selected job; an unknown job may have some too."""
    job_id = selection.job_id
    return [letter for letter in letters if letter.job_id == job_id]


def check_places(
    selection: DeadLetterSelection,
    stored: Collection[LetterPlace],
    resolved: Mapping[LetterPlace, ResolvedLetter],
) -> None:
    """Raise unless every named place has a waiting dead letter.

    Raises:
        CommandError: the place has none, or it is resolved.
    """
    for place in selection.places:
        name = place_text(place)
        if place not in stored:
            raise CommandError(Exit.REFUSED, f"dead letter {name} not found")
        resolution = resolved.get(place)
        if resolution is not None and resolution.is_done:
            raise CommandError(
                Exit.REFUSED,
                f"dead letter {name} was already {resolution.resolution.value} by action "
                f"{resolution.action} of the audit; nothing was changed",
            )
