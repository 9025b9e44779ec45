"""Choosing: the options by which commands choose dead letters, and what is known of those.

I/O: Kafka and PostgreSQL.
"""

from collections.abc import Collection, Mapping
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator
from ops.dead_letters.letter import LetterSelection, parsed, place_text
from services.api.operators import LetterPlace, ResolvedLetter
from services.api.operators import dead_letters as rows
from shared.kafka.log_reader import LogReader, OffsetRange

Topic = Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Whose dead letters.")]
Job = Annotated[str | None, typer.Option(help="Only of this job.")]
Run = Annotated[int | None, typer.Option("--run", min=1, help="Only of this run of it.")]
DiedOf = Annotated[str | None, typer.Option(help="Only those whose reason has this.")]
Place = Annotated[
    list[str] | None,
    typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="This one; may be repeated."),
]


def selected(
    topic: str | None,
    *,
    job: str | None,
    run: int | None,
    died_of: str | None,
    place: list[str] | None,
) -> LetterSelection:
    """What the options select.

    Raises:
        CommandError: they select everything, or name what cannot be.
    """
    selection = LetterSelection(
        topic=topic,
        job_id=job,
        run=run,
        died_of=died_of,
        places=tuple(dict.fromkeys(map(parsed, place or ()))),
    )
    selection.check()
    return selection


async def looked_at(
    operator: Operator, reader: LogReader, selection: LetterSelection
) -> tuple[list[OffsetRange], dict[LetterPlace, ResolvedLetter]]:
    """Where the dead letters lie that may be meant, and what is known of them."""
    spans = [span for topic in selection.topics for span in await reader.ranges(topic)]
    async with operator.database.connection() as connection:
        fates = await rows.resolutions(connection, operator.kafka.epoch, selection.topics)
    return spans, dict(fates)


def check_places(
    selection: LetterSelection,
    there: Collection[LetterPlace],
    fates: Mapping[LetterPlace, ResolvedLetter],
) -> None:
    """Return if every place that was named has a letter that waits.

    Raises:
        CommandError: one has none, and why.
    """
    for place in selection.places:
        named = place_text(place)
        if place not in there:
            raise CommandError(Exit.REFUSED, f"there is no dead letter {named}")
        fated = fates.get(place)
        if fated is not None and fated.is_done:
            told = f"{named} was {fated.resolution.value} already, by {fated.action} of the audit"
            raise CommandError(Exit.REFUSED, f"{told}: nothing was changed")
