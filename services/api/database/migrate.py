"""Schema: bring the database up to the migrations of this version.

Forward only, each file once, in order of its number, all under one advisory lock: replicas may
start at the same moment. I/O: PostgreSQL, and the SQL files of this package.
"""

import re
from importlib.resources import files

from services.api.database import Database

LOCK_MIGRATE = 0x5E60_0001
_NAME = re.compile(r"^(\d{4})_\w+\.sql$")


def migrations() -> list[tuple[int, str]]:
    """Every migration as number and SQL, in order."""
    return sorted(
        (int(name[1]), entry.read_text(encoding="utf-8"))
        for entry in files("services.api.database.migrations").iterdir()
        if (name := _NAME.match(entry.name))
    )


async def migrate(database: Database) -> list[int]:
    """Apply what is missing; the numbers of what was applied.

    Raises:
        DatabaseUnavailableError: nothing was applied.
    """
    applied = []
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_MIGRATE)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        have = {row["number"] for row in await connection.fetch("SELECT * FROM schema_migrations")}
        for number, sql in migrations():
            if number in have:
                continue
            await connection.execute(sql)
            await connection.execute("INSERT INTO schema_migrations (number) VALUES ($1)", number)
            applied.append(number)
    return applied
