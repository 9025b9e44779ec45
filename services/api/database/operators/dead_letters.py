"""Stores which dead letters were requeued or discarded, by topic, partition and offset.

A command claims a letter before it handles it and completes it afterwards; a letter that is
claimed and not complete belongs to an interrupted command. I/O: PostgreSQL, on the given
connection.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.api.database import Connection, storable

LetterPlace = tuple[str, int, int]  #: dead-letter topic without prefix, partition, offset


class Resolution(StrEnum):
    """How a dead letter was resolved."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedLetter:
    """A requeued or discarded letter."""

    resolution: Resolution
    action: int  #: number of the command in the audit log
    is_done: bool  #: false: the command was interrupted before it


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedLetter:
    """A letter that a command is about to resolve."""

    place: LetterPlace
    job_id: str | None  #: None: the record is no event
    run: int | None


async def resolutions(
    connection: Connection, epoch: str, topics: Collection[str]
) -> Mapping[LetterPlace, ResolvedLetter]:
    """Return the resolved letters of these topics."""
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
    """Claim letters for a command; letters that are claimed already stay unchanged."""
    await connection.executemany(
        """
        INSERT INTO dead_letters
            (epoch, topic, partition, "offset", job_id, run, fate, action, marked_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
        """,
        [
            (
                epoch,
                *letter.place,
                storable(letter.job_id),
                letter.run,
                resolution.value,
                action,
                now,
            )
            for letter in letters
        ],
    )


async def complete(
    connection: Connection, epoch: str, places: Collection[LetterPlace], *, now: datetime
) -> None:
    """Mark claimed letters as resolved."""
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
    """Return the number of resolved letters per topic, from each partition's first offset."""
    rows = await connection.fetch(
        """
        SELECT topic, count(*) AS resolved FROM dead_letters
        JOIN unnest($2::text[], $3::integer[], $4::bigint[]) AS given (topic, partition, start)
            USING (topic, partition)
        WHERE epoch = $1 AND done_at IS NOT NULL AND "offset" >= given.start GROUP BY topic
        """,
        epoch,
        [topic for topic, _ in starts],
        [number for _, number in starts],
        list(starts.values()),
    )
    return {row["topic"]: row["resolved"] for row in rows}
