"""Compares the projection's tables with a second set rebuilt from the log, and updates them.

The second set has a schema of its own, so that an interrupted rebuild leaves the live rows
unchanged; the next rebuild drops it first.

The log contains neither a request's digest and estimate nor upstream's content before a run:
those columns are never changed, and no live row is deleted.
"""
# ruff: noqa: S608 - statements consist of names in this file and of the server's own

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.api.database import JOBS_CHANNEL, Connection
from services.api.domain.run_view import UNFINISHED

SCHEMA = "segue_rebuild"
LOCK_REBUILD = 0x5E60_0003
EXAMPLES_MAX = 20
_TABLES = ("jobs", "runs", "scenes", "outbox", "projection_offsets")
_UNFINISHED = sorted(UNFINISHED)
_JOBS = ("run", "progress")
_RUNS = (
    *("status", "scene_count", "params", "video", "started_at", "generated_at"),
    *("track", "muxed", "failure", "cancelled"),
)
_SCENES = (
    *("spec", "state", "origin", "reason", "object_key", "duration_s", "samples", "provider"),
    *("prediction_id", "generation_s", "cost_usd", "saved_usd", "warnings", "delay"),
)
_KEYS = {"jobs": ("job_id",), "runs": ("job_id", "run"), "scenes": ("job_id", "run", "scene_index")}
_FACTS = {"jobs": _JOBS, "runs": _RUNS, "scenes": _SCENES}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableComparison:
    """Comparison of one table with the log."""

    same: int
    different: int
    missing: int  #: on the log, not in the table
    not_on_the_log: int  #: only in the table: not published yet, or from an earlier log
    examples: tuple[str, ...] = ()  #: keys of different or missing rows


async def try_lock(connection: Connection) -> bool:
    """Return whether this session now holds the rebuild lock, until it closes."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_REBUILD))


async def make(connection: Connection) -> str:
    """Create the empty second set; return the schema of the live one."""
    live: str = await connection.fetchval("SELECT current_schema()")
    await drop(connection)
    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    for table in _TABLES:
        await connection.execute(
            f'CREATE UNLOGGED TABLE {SCHEMA}.{table} (LIKE "{live}".{table} INCLUDING ALL)'
        )
    return live


async def drop(connection: Connection) -> None:
    """Drop the second set if it exists."""
    await connection.execute("SET LOCAL client_min_messages = warning")
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


async def newest_epoch(connection: Connection) -> str | None:
    """Return the epoch that the api reads; None if it has read none."""
    epoch: str | None = await connection.fetchval(
        "SELECT epoch FROM epochs ORDER BY started_at DESC LIMIT 1"
    )
    return epoch


async def stored_positions(
    connection: Connection, epoch: str, *, hold: bool
) -> Mapping[tuple[str, int], int]:
    """Return the live projection's offsets; `hold` locks them until the transaction ends."""
    rows = await connection.fetch(
        "SELECT topic, partition, next_offset FROM projection_offsets WHERE epoch = $1 "
        f"ORDER BY topic, partition {'FOR UPDATE' if hold else ''}",
        epoch,
    )
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def choose(connection: Connection, live: str, *, since: datetime | None) -> int:
    """Select the jobs to compare: all, or those created since `since`; return how many are older.

    In the second set, runs older than the newest live run are superseded as well.
    """
    await connection.execute(
        "CREATE TEMP TABLE chosen (job_id text PRIMARY KEY, young boolean) ON COMMIT DROP"
    )
    await connection.execute(
        f"""
        INSERT INTO chosen
        SELECT job_id, coalesce(least(min(l.created_at), min(r.started_at), min(s.started_at))
                                >= $1::timestamptz, true) AS young
        FROM (SELECT job_id FROM "{live}".jobs UNION SELECT job_id FROM {SCHEMA}.jobs) every
        LEFT JOIN "{live}".jobs l USING (job_id)
        LEFT JOIN "{live}".runs r USING (job_id)
        LEFT JOIN {SCHEMA}.runs s USING (job_id) GROUP BY job_id
        """,
        since,
    )
    older: int = await connection.fetchval("SELECT count(*) FROM chosen WHERE NOT young")
    await connection.execute("DELETE FROM chosen WHERE NOT young")
    await connection.execute("ANALYZE chosen")
    for table in _KEYS:
        await connection.execute(f"ANALYZE {SCHEMA}.{table}")
    await connection.execute(
        f"""
        UPDATE {SCHEMA}.runs s SET status = 'superseded' WHERE status = ANY($1)
            AND EXISTS (SELECT FROM "{live}".runs r WHERE r.job_id = s.job_id AND r.run > s.run)
        """,
        _UNFINISHED,
    )
    return older


async def compare(connection: Connection, live: str, table: str) -> TableComparison:
    """Compare the live rows of the selected jobs with the second set."""
    keys = ", ".join(_KEYS[table])
    join = f'FROM (SELECT * FROM "{live}".{table} JOIN chosen USING (job_id)) l'
    join += f" FULL JOIN (SELECT * FROM {SCHEMA}.{table} JOIN chosen USING (job_id)) s"
    join += f" USING ({keys})"
    differs = f"({_columns('l', table)}) IS DISTINCT FROM ({_columns('s', table)})"
    live_row, log_row = "l.job_id IS NOT NULL", "s.job_id IS NOT NULL"
    if table == "jobs":  # a newer run that is not on the log yet is no difference
        log_row += " AND coalesce(l.run <= s.run, true)"
    counted = await connection.fetchrow(
        f"""
        SELECT count(*) FILTER (WHERE {live_row} AND {log_row} AND NOT {differs}) AS same,
            count(*) FILTER (WHERE {live_row} AND {log_row} AND {differs}) AS different,
            count(*) FILTER (WHERE NOT ({live_row})) AS missing,
            count(*) FILTER (WHERE {live_row} AND NOT ({log_row})) AS not_on_the_log
        {join}
        """
    )
    assert counted is not None, "an aggregate returns a row"
    examples = await connection.fetch(
        f"SELECT concat_ws(' / ', {keys}) AS key {join} WHERE {log_row} AND {differs} "
        f"ORDER BY {keys} LIMIT {EXAMPLES_MAX}"
    )
    return TableComparison(**counted, examples=tuple(row["key"] for row in examples))


async def write(connection: Connection, live: str, *, now: datetime) -> None:
    """Update the live rows of the selected jobs from the second set and notify followers."""
    await connection.execute(
        f"""
        INSERT INTO "{live}".jobs (job_id, run, progress, video, created_at, updated_at)
        SELECT job_id, run, progress, video, created_at, $1
        FROM {SCHEMA}.jobs JOIN chosen USING (job_id) ON CONFLICT DO NOTHING
        """,
        now,
    )
    for table in ("runs", "scenes"):
        columns = ", ".join((*_KEYS[table], *_FACTS[table]))
        updates = ", ".join(f"{column} = excluded.{column}" for column in _FACTS[table])
        await connection.execute(
            f"""
            INSERT INTO "{live}".{table} AS l ({columns})
            SELECT {columns} FROM {SCHEMA}.{table} JOIN chosen USING (job_id)
            ON CONFLICT ({", ".join(_KEYS[table])}) DO UPDATE SET {updates}
            WHERE ({_columns("l", table)}) IS DISTINCT FROM ({_columns("excluded", table)})
            """
        )
    await connection.execute(
        f"""
        WITH updated AS (
            UPDATE "{live}".jobs l SET run = s.run, progress = s.progress,
                version = l.version + 1, updated_at = $1
            FROM {SCHEMA}.jobs s JOIN chosen USING (job_id)
            WHERE l.job_id = s.job_id AND l.run <= s.run
                AND ({_columns("l", "jobs")}) IS DISTINCT FROM ({_columns("s", "jobs")})
            RETURNING l.job_id
        ) SELECT pg_notify($2, job_id) FROM updated
        """,
        now,
        JOBS_CHANNEL,
    )


async def lock_jobs(connection: Connection, live: str) -> None:
    """Lock the selected jobs, so that no run starts between comparing and writing."""
    await connection.execute(
        f'SELECT FROM "{live}".jobs JOIN chosen USING (job_id) '
        'ORDER BY job_id COLLATE "C" FOR UPDATE OF jobs'
    )


def _columns(alias: str, table: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in _FACTS[table])
