"""Sweep: what of the store somebody still needs, by what the rows say.

I/O: PostgreSQL, on the connection handed in.
"""

from services.api.database import Connection


async def job_ids(connection: Connection) -> list[str]:
    """Every job."""
    return [row["job_id"] for row in await connection.fetch("SELECT job_id FROM jobs")]


async def unfinished_runs(connection: Connection) -> list[tuple[str, int]]:
    """Every run that has not ended, by job and number, and those that it takes scenes from."""
    rows = await connection.fetch(
        """
        WITH open AS (SELECT job_id, run FROM runs
                      WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded'))
        SELECT job_id, run FROM open
        UNION SELECT job_id, (spec->'kept'->>'run')::integer
        FROM open JOIN scenes USING (job_id, run) WHERE spec->'kept'->>'run' IS NOT NULL
        """
    )
    return [(row["job_id"], row["run"]) for row in rows]


async def is_referenced(connection: Connection, key: str) -> bool:
    """Whether any job or run names this handed-in file."""
    return bool(await connection.fetchval(_NAMED, key))


async def referenced_uploads(connection: Connection) -> frozenset[str]:
    """Every handed-in file that a job or run names."""
    rows = await connection.fetch(_ALL_NAMED)
    return frozenset(row["key"] for row in rows if row["key"])


_ALL_NAMED = """
    SELECT video->>'object' AS key FROM jobs WHERE video ? 'object'
    UNION SELECT audio_params->'style_audio'->>'object' FROM jobs
        WHERE audio_params->'style_audio' ? 'object'
    UNION SELECT video->>'object' FROM runs WHERE video ? 'object'
    UNION SELECT params->'style_audio'->>'object' FROM runs WHERE params->'style_audio' ? 'object'
"""
_NAMED = """
    SELECT EXISTS (SELECT FROM jobs WHERE video->>'object' = $1)
        OR EXISTS (SELECT FROM jobs WHERE audio_params->'style_audio'->>'object' = $1)
        OR EXISTS (SELECT FROM runs WHERE video->>'object' = $1)
        OR EXISTS (SELECT FROM runs WHERE params->'style_audio'->>'object' = $1)
"""
