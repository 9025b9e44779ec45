"""Letters: what became of dead letters, by their places on the dead-letter topics.

A letter is marked before anything is done with it, and done afterwards; one that is marked alone
belongs to a command that was interrupted, and to no other. I/O: PostgreSQL, on the connection
handed in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.api.database import Connection, storable

LetterPlace = tuple[str, int, int]  #: dead-letter topic without prefix, partition, offset


class Resolution(StrEnum):
    """What became of it."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedLetter:
    """A letter that waits no more."""

    resolution: Resolution
    action: int  #: the audit's row
    is_done: bool  #: or its command was interrupted before


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedLetter:
    """A letter to be marked."""

    place: LetterPlace
    job_id: str | None  #: None: it is no event
    run: int | None


async def resolutions(
    connection: Connection, epoch: str, topics: Collection[str]
) -> Mapping[LetterPlace, ResolvedLetter]:
    """What is known of letters of these topics."""
    rows = await connection.fetch(
        """
        SELECT topic, partition, "offset", fate, action, done_at IS NOT NULL AS is_done
        FROM dead_letters WHERE epoch = $1 AND topic = ANY($2::text[])
        """,
        epoch,
        list(topics),
    )
    return {
        (row["topic"], row["partition"], row["offset"]): ResolvedLetter(
            resolution=Resolution(row["fate"]), action=row["action"], is_done=row["is_done"]
        )
        for row in rows
    }


async def claim(
    connection: Connection,
    epoch: str,
    letters: Sequence[ClaimedLetter],
    *,
    resolution: Resolution,
    action: int,
    now: datetime,
) -> None:
    """Say whose these letters are from now on; those that are marked already stay as they are."""
    await connection.executemany(
        """
        INSERT INTO dead_letters
            (epoch, topic, partition, "offset", job_id, run, fate, action, marked_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
        """,
        [
            (epoch, *one.place, storable(one.job_id), one.run, resolution.value, action, now)
            for one in letters
        ],
    )


async def complete(
    connection: Connection, epoch: str, places: Collection[LetterPlace], *, now: datetime
) -> None:
    """Say that their command came to these."""
    await connection.execute(
        """
        UPDATE dead_letters AS d SET done_at = $5
        FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS given (topic, partition, "offset")
        WHERE d.epoch = $1 AND d.done_at IS NULL AND (d.topic, d.partition, d."offset")
            = (given.topic, given.partition, given."offset")
        """,
        epoch,
        [topic for topic, _, _ in places],
        [number for _, number, _ in places],
        [offset for _, _, offset in places],
        now,
    )


async def count_resolved(
    connection: Connection, epoch: str, starts: Mapping[tuple[str, int], int]
) -> Mapping[str, int]:
    """How many of each topic wait no more; `starts`: where its partitions begin in the log."""
    rows = await connection.fetch(
        """
        SELECT topic, count(*) AS settled FROM dead_letters
        JOIN unnest($2::text[], $3::integer[], $4::bigint[]) AS given (topic, partition, start)
            USING (topic, partition)
        WHERE epoch = $1 AND done_at IS NOT NULL AND "offset" >= given.start GROUP BY topic
        """,
        epoch,
        [topic for topic, _ in starts],
        [number for _, number in starts],
        list(starts.values()),
    )
    return {row["topic"]: row["settled"] for row in rows}
