"""Queries for `segue store`: which runs and uploads are still referenced.

I/O: PostgreSQL, on the given connection.
"""

from services.api.database import Connection


async def job_ids(connection: Connection) -> list[str]:
    """Return every job id."""
    return [row["job_id"] for row in await connection.fetch("SELECT job_id FROM jobs")]


async def unfinished_runs(connection: Connection) -> list[tuple[str, int]]:
    """Return every unfinished run and the runs it takes scenes from, as job id and run."""
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


async def referenced_uploads(connection: Connection) -> frozenset[str]:
    """Return every upload that a job or run references."""
    rows = await connection.fetch(_REFERENCED)
    return frozenset(row["key"] for row in rows if row["key"])


_REFERENCED = """
    SELECT video->>'object' AS key FROM jobs WHERE video ? 'object'
    UNION SELECT audio_params->'style_audio'->>'object' FROM jobs
        WHERE audio_params->'style_audio' ? 'object'
    UNION SELECT video->>'object' FROM runs WHERE video ? 'object'
    UNION SELECT params->'style_audio'->>'object' FROM runs WHERE params->'style_audio' ? 'object'
"""
