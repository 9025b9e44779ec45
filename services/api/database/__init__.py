"""Connection pool and transactions for PostgreSQL; the package holds all SQL of the api.

Each module covers one table or one view of several; `operators/` has the queries of operator
commands. Functions take a connection, so that a transaction can span several of them. If
PostgreSQL is unavailable the error is retryable, so a client gets 503 and never 500.

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
_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # connection closed between two statements
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # server shutting down, or query cancelled
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.TransactionRollbackError,  # deadlock or serialization failure: retry
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
_CONNECT_FAILED = (*_UNAVAILABLE, asyncpg.PostgresError)  # while connecting, all are retryable


class DatabaseUnavailableError(RetryableError):
    """PostgreSQL is unavailable or overloaded."""


class LockWaitError(DatabaseUnavailableError):
    """Another transaction held the row lock until the lock timeout."""


class Database:
    """A bounded pool of connections."""

    def __init__(self, settings: DatabaseSettings, *, schema: str | None = None) -> None:
        """`schema`: the schema of the tables; None: the server's search_path."""
        self._settings = settings
        self._session = {"application_name": "segue-api"}
        if schema is not None:
            self._session["search_path"] = schema
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            DatabaseUnavailableError: the server does not respond.
        """
        timeout_s = self._settings.timeout_s
        with _translated(_CONNECT_FAILED):
            self._pool = await asyncpg.create_pool(
                self._settings.url.get_secret_value(),
                min_size=1,
                max_size=self._settings.connections_max,
                timeout=timeout_s,
                command_timeout=timeout_s,
                init=prepare,
                reset=_no_reset,
                server_settings=self._session,
            )

    async def close(self) -> None:
        """Close all connections."""
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
        """Yield a connection from the pool, for single statements.

        Raises:
            DatabaseUnavailableError: no connection was free in time, or it was lost.
        """
        if self._pool is None:
            raise DatabaseUnavailableError("not connected to PostgreSQL yet")
        async with AsyncExitStack() as stack:
            with _translated(_CONNECT_FAILED):
                pool = self._pool.acquire(timeout=self._settings.timeout_s)
                connection = await stack.enter_async_context(pool)
            with _translated():
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection inside a transaction.

        Raises:
            DatabaseUnavailableError: it was rolled back, or the commit's result is unknown.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[OwnConnection]:
        """Yield a connection outside the pool, for session locks and LISTEN.

        Raises:
            DatabaseUnavailableError: connecting failed, or the connection was lost.
        """
        with _translated(_CONNECT_FAILED):
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
        """Raise if PostgreSQL does not respond.

        Raises:
            DatabaseUnavailableError: it does not respond.
        """
        async with self.connection() as connection:
            await connection.execute("SELECT 1")


async def prepare(connection: Connection) -> None:
    """Set the JSON codecs of `connection`."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=to_json, decoder=json.loads
        )


def to_json(value: Any) -> str:
    """Return `value` as JSON that PostgreSQL accepts."""
    return json.dumps(storable(value))


def storable(value: Any) -> Any:
    """Return `value` with every NUL replaced: PostgreSQL cannot store that character."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
        case _:
            return value


async def _no_reset(connection: Connection) -> None:
    """Skip the round trip of a reset: no query changes the session."""


async def _close(connection: OwnConnection) -> None:
    try:
        await connection.close(timeout=CLOSE_S)
    except _UNAVAILABLE:
        connection.terminate()


@contextmanager
def _translated(kinds: tuple[type[Exception], ...] = _UNAVAILABLE) -> Iterator[None]:
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise LockWaitError(f"PostgreSQL: {error}") from error
    except kinds as error:
        if isinstance(error, ValueError):  # asyncpg rejects an argument: a bug
            raise
        raise DatabaseUnavailableError(f"PostgreSQL: {error!r}") from error
