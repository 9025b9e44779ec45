"""Operating: what every operator's command stands on: servers, an audit row, and clear ends.

A command needs the addresses of Kafka, PostgreSQL and the store, and none of the services. They
come from the environment; where it names no Kafka, from the stack that runs on this machine.
What writes, writes an audit row first: who, when, why, and how far it has come.

I/O: Kafka, PostgreSQL and the store, as the command asks for them.
"""

import asyncio
import getpass
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.settings import CommandSettings
from services.api.operators import ActionState, ApiSettings, Database, audit
from shared.clock import Clock, SystemClock
from shared.errors import RetryableError
from shared.local_stack import DataDirSettings, find_stack, read_stack_environment
from shared.settings import KafkaSettings, TelemetrySettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.telemetry.log import Logger, configure, logger_of

KAFKA_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
Say = Callable[[str], None]
T = TypeVar("T")
_NO_RIGHT = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)


@dataclass(kw_only=True)
class Operator:
    """The servers, and who works with them."""

    settings: ApiSettings
    database: Database  #: connected; its tables are there
    store: ObjectStore
    who: str
    say: Say  #: progress and notes, on standard error; silent with --json
    clock: Clock = field(default_factory=SystemClock)
    log: Logger = field(default_factory=lambda: logger_of("ops"))

    @property
    def kafka(self) -> KafkaSettings:
        """Where Kafka is."""
        return self.settings.kafka


@dataclass(kw_only=True)
class Audit:
    """The row of a command that writes."""

    database: Database
    number: int

    async def tell(self, progress: Mapping[str, Any]) -> None:
        """Keep how far it has come; this is what a resumed command goes on from."""
        async with self.database.connection() as connection:
            await audit.save_progress(connection, self.number, progress)


def run(
    body: Callable[[Operator], Coroutine[Any, Any, T]],
    *,
    as_json: bool,
    data_dir: Path | None = None,
) -> T:
    """Run `body` with an operator; the one way in for commands.

    Raises:
        SettingsError: the environment is wrong.
        CommandError: a server is away, or the tables are not there.
    """
    settings, who = _settings(data_dir)
    say = Console(quiet=as_json, soft_wrap=True, stderr=True).print

    async def work() -> T:
        async with _operator(settings, who=who, say=say) as operator:
            return await body(operator)

    try:
        return asyncio.run(work())
    except (RetryableError, KafkaError) as error:
        refused = next(
            (one for one in (error, error.__cause__) if isinstance(one, _NO_RIGHT)), None
        )
        if refused is not None:
            told = f"Kafka: {refused!r}: ask for that right (segue acls)"
            raise CommandError(Exit.REFUSED, told) from error
        told = f"Kafka: {error!r}" if isinstance(error, KafkaError) else str(error)
        raise CommandError(Exit.UNREACHABLE, told) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise CommandError(Exit.REFUSED, f"PostgreSQL: {error}: ask for that right") from error


@asynccontextmanager
async def audited(
    operator: Operator,
    command: str,
    *,
    arguments: Mapping[str, Any],
    reason: str | None,
    goes_on: int | None = None,
) -> AsyncIterator[Audit]:
    """Do what is inside under an audit row; `goes_on` is the row of an interrupted one.

    Raises:
        CommandError: no reason was given.
    """
    if not reason:
        raise CommandError(Exit.USAGE, "say why with --reason: it is kept in the audit")
    async with operator.database.connection() as connection:
        if goes_on is None:
            number = await audit.begin(
                connection,
                command=command,
                arguments=arguments,
                who=operator.who,
                reason=reason,
                now=operator.clock.now(),
            )
        else:
            number = goes_on
            await audit.resume(connection, number)
    state = ActionState.FAILED
    try:
        yield Audit(database=operator.database, number=number)
        state = ActionState.DONE
    except (asyncio.CancelledError, KeyboardInterrupt, RetryableError, KafkaError):
        state = ActionState.INTERRUPTED
        raise
    finally:
        await asyncio.shield(_ended(operator, number, state))


async def _ended(operator: Operator, number: int, state: ActionState) -> None:
    with suppress(RetryableError):  # the row goes on saying `running`: nobody came to end it
        async with operator.database.connection() as connection:
            await audit.end(connection, number, state, now=operator.clock.now())


def _settings(data_dir: Path | None) -> tuple[ApiSettings, str]:
    """The environment's, filled up with what the stack of this machine says of itself."""
    given = (
        {} if data_dir is None else {"home": DataDirSettings.from_environment(data_dir=data_dir)}
    )
    command = CommandSettings.from_environment(**given)
    if data_dir is not None or KAFKA_VARIABLE not in os.environ:  # noqa: TID251 - as below
        found = take_stack(command.home.folder)
        if data_dir is not None and not found:
            raise CommandError(Exit.UNREACHABLE, f"no stack runs on {command.home.folder}")
    configure(TelemetrySettings.from_environment(log_level="error"))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the command says it, once
    return ApiSettings.from_environment(), command.operator or _user()


def take_stack(folder: Path) -> bool:
    """Let the environment name the servers of the stack on `folder`; whether one runs there."""
    found = read_stack_environment(folder) if find_stack(folder) else {}
    os.environ.update(found)  # noqa: TID251 - a command's start: where no Kafka is named
    return bool(found)


def _user() -> str:
    """The user at this machine, for the audit."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


@asynccontextmanager
async def _operator(settings: ApiSettings, *, who: str, say: Say) -> AsyncIterator[Operator]:
    async with AsyncExitStack() as stack:
        database = Database(settings.database)
        stack.push_async_callback(database.close)
        await database.open()
        async with database.connection() as connection:
            if await connection.fetchval("SELECT to_regclass('operator_actions')") is None:
                raise CommandError(
                    Exit.REFUSED,
                    "this database has no tables of this version: start the api of it once",
                )
        store = open_store(settings.store)
        stack.push_async_callback(store.close)
        yield Operator(settings=settings, database=database, store=store, who=who, say=say)
