"""Repository: all SQL of the api, on asyncpg; nothing else here knows PostgreSQL.

One module per table group: `schema` (migrations), `jobs`, `runs`, `outbox`, `offsets`,
`idempotency`, `status` (what clients see). Functions take a connection, so that one
transaction can hold several of them. What PostgreSQL cannot do now is retryable; it never
reaches a client as a fault of ours.

I/O: PostgreSQL.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from services.api.settings import DatabaseSettings
from shared.errors import RetryableError

if TYPE_CHECKING:  # asyncpg's classes take no parameters at run time
    OwnConnection = asyncpg.Connection[asyncpg.Record]
    Connection = OwnConnection | PoolConnectionProxy[asyncpg.Record]
else:
    OwnConnection, Connection = asyncpg.Connection, asyncpg.Connection | PoolConnectionProxy

JOBS_CHANNEL = "segue_jobs"  #: payload: the job id
OUTBOX_CHANNEL = "segue_outbox"
CLOSE_S = 3.0
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # its word for a connection that was ended between two statements
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it is shutting down, or somebody ended the query
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.TransactionRollbackError,  # deadlock, serialization: the same again will do
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)

_REFUSED = (*_AWAY, asyncpg.PostgresError)  # while connecting, every refusal may be over soon


class DatabaseUnavailableError(RetryableError):
    """PostgreSQL is away, or cannot do it now."""


class LockWaitError(DatabaseUnavailableError):
    """Somebody else holds the row for longer than we wait."""


class Database:
    """A bounded pool of connections."""

    def __init__(self, settings: DatabaseSettings, *, schema: str | None = None) -> None:
        """`schema`: where the tables lie; None: where the server's own path says."""
        self._settings = settings
        self._session = {"application_name": "segue-api"}
        if schema is not None:
            self._session["search_path"] = schema
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            DatabaseUnavailableError: nobody answers.
        """
        with_timeout = self._settings.timeout_s
        with _translated(_REFUSED):
            self._pool = await asyncpg.create_pool(
                self._settings.url.get_secret_value(),
                min_size=1,
                max_size=self._settings.connections_max,
                timeout=with_timeout,
                command_timeout=with_timeout,
                init=prepare,
                reset=_as_it_is,
                server_settings=self._session,
            )

    async def close(self) -> None:
        """Give the connections back to the server."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection from the pool, for single statements.

        Raises:
            DatabaseUnavailableError: none could be had in time, or it broke.
        """
        if self._pool is None:
            raise DatabaseUnavailableError("PostgreSQL was not reached yet")
        async with AsyncExitStack() as stack:
            with _translated(_REFUSED):
                pool = self._pool.acquire(timeout=self._settings.timeout_s)
                connection = await stack.enter_async_context(pool)
            with _translated():
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction: everything in it happens, or nothing.

        Raises:
            DatabaseUnavailableError: it did not happen; or, rarely, its answer was lost.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[OwnConnection]:
        """A connection of one's own, for session locks and LISTEN.

        Raises:
            DatabaseUnavailableError: it could not be had, or it broke.
        """
        with _translated(_REFUSED):
            connection = await asyncpg.connect(
                self._settings.url.get_secret_value(),
                timeout=self._settings.timeout_s,
                command_timeout=self._settings.timeout_s,
                server_settings=self._session,
            )
        try:
            with _translated():
                await prepare(connection)
                yield connection
        finally:
            await _close(connection)

    async def check(self) -> None:
        """Return if PostgreSQL answers.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        async with self.connection() as connection:
            await connection.execute("SELECT 1")


async def prepare(connection: Connection) -> None:
    """Make `connection` speak JSON as Python values."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=to_json, decoder=json.loads
        )


def to_json(value: Any) -> str:
    """`value` as JSON that PostgreSQL can keep."""
    return json.dumps(storable(value))


def storable(value: Any) -> Any:
    """`value` with every NUL in its texts replaced: PostgreSQL has no room for that character."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
        case _:
            return value


async def _as_it_is(connection: Connection) -> None:
    """Spare the round trip of a reset: nothing here leaves a session changed behind."""


async def _close(connection: OwnConnection) -> None:
    try:
        await connection.close(timeout=CLOSE_S)
    except _AWAY:
        connection.terminate()


@contextmanager
def _translated(kinds: tuple[type[Exception], ...] = _AWAY) -> Iterator[None]:
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise LockWaitError(f"PostgreSQL: {error}") from error
    except kinds as error:
        if isinstance(error, ValueError):  # asyncpg's word for an argument it cannot send: a bug
            raise
        raise DatabaseUnavailableError(f"PostgreSQL: {error!r}") from error
