"""Applies the migrations of this version to the database.

Forward only, each file once, in the order of its number, all under one advisory lock, because
replicas may start at the same time. The checksum of each applied file is stored, so that an edit
of an applied file is noticed. I/O: PostgreSQL, and the SQL files of this package.
"""

import hashlib
import re
from importlib.resources import files
from typing import NamedTuple

from services.api.database import Connection, Database
from shared.errors import SegueError

LOCK_MIGRATE = 0x5E60_0001
_NAME = re.compile(r"^(\d{4})_\w+\.sql$")


class MigrationChangedError(SegueError):
    """An applied migration file was edited; the service does not start."""


class Migration(NamedTuple):
    """One SQL file."""

    number: int
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every migration in order."""
    return sorted(
        Migration(int(name[1]), entry.read_text(encoding="utf-8"))
        for entry in files("services.api.database.migrations").iterdir()
        if (name := _NAME.match(entry.name))
    )


async def migrate(database: Database) -> list[int]:
    """Apply the missing migrations; return their numbers.

    Raises:
        MigrationChangedError: an applied file was edited; nothing was changed.
        DatabaseUnavailableError: nothing was changed.
    """
    applied = []
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_MIGRATE)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now(), "
            "checksum text)"
        )
        checksums = await _stored_checksums(connection)
        for migration in migrations():
            if migration.number in checksums:
                await _check(connection, migration, checksums[migration.number])
                continue
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number, checksum) VALUES ($1, $2)",
                migration.number,
                migration.checksum,
            )
            applied.append(migration.number)
    return applied


async def _stored_checksums(connection: Connection) -> dict[int, str | None]:
    """Return the checksum of each applied migration; None if an older version applied it."""
    has_column = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass "
        "AND attname = 'checksum' AND NOT attisdropped)"
    )
    if not has_column:  # ALTER TABLE would wait for every reader, so only once
        await connection.execute("ALTER TABLE schema_migrations ADD COLUMN checksum text")
    rows = await connection.fetch("SELECT number, checksum FROM schema_migrations")
    return {row["number"]: row["checksum"] for row in rows}


async def _check(connection: Connection, migration: Migration, checksum: str | None) -> None:
    """Compare an applied migration with its stored checksum; store a missing one."""
    if checksum is None:
        await connection.execute(
            "UPDATE schema_migrations SET checksum = $2 WHERE number = $1",
            migration.number,
            migration.checksum,
        )
    elif checksum != migration.checksum:
        raise MigrationChangedError(
            f"migration {migration.number:04d} was edited after it was applied to this database: "
            "restore the file and add a new migration for the change"
        )
