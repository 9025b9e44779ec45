"""Records uploaded files: which of them a job references, and how much the others occupy.

A file is deleted only under the lock on its row, and only if the row is unreferenced; a request
that names the file marks the row in the transaction that creates its run. So either the request
sees that the file is gone, or the file stays.

I/O: PostgreSQL, on the given connection.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Connection
from shared.storage import ObjectStat

LOCK_QUOTA = 0x5E60_0005
LOCK_SWEEP = 0x5E60_0006


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadUsage:
    """Uploads that no job references."""

    objects: int
    size_bytes: int


async def add(connection: Connection, key: str, *, size_bytes: int, now: datetime) -> None:
    """Record an upload; a repeated one is as young as a new one."""
    await connection.execute(
        """
        INSERT INTO uploads (key, size_bytes, uploaded_at) VALUES ($1, $2, $3)
        ON CONFLICT (key) DO UPDATE
        SET size_bytes = excluded.size_bytes, uploaded_at = excluded.uploaded_at
        """,
        key,
        size_bytes,
        now,
    )


async def add_found(connection: Connection, stats: Iterable[ObjectStat]) -> None:
    """Record files that are in the store and not in the table."""
    found = list(stats)
    await connection.execute(
        """
        INSERT INTO uploads (key, size_bytes, uploaded_at)
        SELECT found.* FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS found (key)
        WHERE NOT EXISTS (SELECT FROM uploads WHERE uploads.key = found.key)
        ON CONFLICT DO NOTHING
        """,  # a conflict would wait for a request that marks the row
        [stat.key for stat in found],
        [stat.size_bytes for stat in found],
        [stat.modified_at for stat in found],
    )


async def reference(connection: Connection, keys: Collection[str]) -> frozenset[str]:
    """Mark uploads as referenced; return those that are in the table."""
    if not keys:
        return frozenset()
    await connection.execute(
        "UPDATE uploads SET is_referenced = true WHERE key = ANY($1::text[]) AND NOT is_referenced",
        sorted(keys),
    )
    rows = await connection.fetch(
        "SELECT key FROM uploads WHERE key = ANY($1::text[])", sorted(keys)
    )
    return frozenset(row["key"] for row in rows)


async def mark_referenced(connection: Connection) -> None:
    """Mark every upload that a job or run references, however it was started."""
    await connection.execute(
        f"UPDATE uploads SET is_referenced = true WHERE NOT is_referenced AND {_IS_REFERENCED}"  # noqa: S608 - a constant
    )


async def usage(connection: Connection, *, besides: str = "") -> UploadUsage:
    """Return what the unreferenced uploads occupy, without the key `besides`."""
    row = await connection.fetchrow(
        "SELECT count(*) AS objects, coalesce(sum(size_bytes), 0)::bigint AS size_bytes "
        "FROM uploads WHERE NOT is_referenced AND key <> $1",
        besides,
    )
    assert row is not None, "an aggregate returns a row"
    return UploadUsage(**row)


async def lock_quota(connection: Connection) -> None:
    """Wait until no other upload is counted; the lock ends with the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_QUOTA)


async def lock_sweep(connection: Connection, *, wait: bool) -> bool:
    """Return whether this transaction may delete; without `wait`, another one may have the lock."""
    if wait:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_SWEEP)
        return True
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_SWEEP))


async def oldest_unreferenced(connection: Connection, *, before: datetime) -> str | None:
    """Lock and return the oldest unreferenced upload from before `before`; None: there is none."""
    key: str | None = await connection.fetchval(
        """
        SELECT key FROM uploads WHERE NOT is_referenced AND uploaded_at < $1
        ORDER BY uploaded_at LIMIT 1 FOR UPDATE SKIP LOCKED
        """,
        before,
    )
    return key


async def lock_unreferenced(connection: Connection, key: str) -> bool:
    """Lock an upload; return whether no job references it, so that it may be deleted."""
    await connection.execute("SELECT FROM uploads WHERE key = $1 FOR UPDATE", key)
    is_referenced = await connection.fetchval(
        f"SELECT {_IS_REFERENCED} FROM (SELECT $1::text AS key) AS uploads",  # noqa: S608 - a constant
        key,
    )
    return not is_referenced


async def forget(connection: Connection, key: str) -> None:
    """Remove the row of a deleted file."""
    await connection.execute("DELETE FROM uploads WHERE key = $1", key)


_IS_REFERENCED = """(
    EXISTS (SELECT FROM jobs WHERE video->>'object' = uploads.key)
    OR EXISTS (SELECT FROM jobs WHERE audio_params->'style_audio'->>'object' = uploads.key)
    OR EXISTS (SELECT FROM runs WHERE video->>'object' = uploads.key)
    OR EXISTS (SELECT FROM runs WHERE params->'style_audio'->>'object' = uploads.key)
)"""
