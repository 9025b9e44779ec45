"""Runs an operator's command: connects the servers, audits changes and prints the result.

A command needs the addresses of Kafka, PostgreSQL and the store, but no running service. They
come from the environment and from the stack that runs on this machine (`server_addresses.py`). A
command that writes records an audit row first: operator, time, reason and progress.

I/O: Kafka, PostgreSQL, the store, standard output and standard error.
"""

import asyncio
import getpass
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from rich.console import RenderableType

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.layout import Hanging
from ops.cli.server_addresses import ServerChoice, choose_servers, no_stack
from ops.cli.settings import CommandSettings
from ops.cli.terminal import print_lines, print_result, reporter
from services.api.operators import Action, ActionState, ApiSettings, Database, audit, pricing
from shared.clock import Clock, SystemClock
from shared.errors import PublishRejectedError, RetryableError
from shared.kafka.client import unavailable
from shared.local_stack import DataDirSettings
from shared.pricing import PricingSettings
from shared.settings import KafkaSettings, TelemetrySettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.telemetry.log import Logger, configure, logger_of

REASON_MISSING = "--apply needs a reason: add --reason TEXT (stored in the audit)"
Report = Callable[[str], None]
Connect = Callable[..., AbstractAsyncContextManager["Operator"]]
T = TypeVar("T")
_HAS_TABLES = """
    SELECT to_regclass('operator_actions') IS NOT NULL AND to_regclass('pricing') IS NOT NULL
"""
_UNAUTHORIZED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)


@dataclass(kw_only=True)
class Operator:
    """The connected servers, and the person who runs the command."""

    settings: ApiSettings
    database: Database  #: connected; its tables exist
    store: ObjectStore
    who: str
    report: Report  #: progress and notes, on standard error; silent with --json
    apply: bool = False  #: False: a dry run
    reason: str = ""  #: not empty if `apply`
    clock: Clock = field(default_factory=SystemClock)
    log: Logger = field(default_factory=lambda: logger_of("ops"))

    async def pricing(self) -> PricingSettings:
        """Return the provider and prices of the running stack, as its api recorded them.

        Never those of this command's environment, which may belong to another stack.

        Raises:
            CommandError: no api of this version has started on this database yet.
        """
        async with self.database.connection() as connection:
            recorded = await pricing.read(connection)
        if recorded is None:
            raise CommandError(
                Exit.REFUSED,
                "the price is unknown: the api records it when it starts; start the api once",
            )
        return recorded

    @property
    def kafka(self) -> KafkaSettings:
        """Return the Kafka settings."""
        return self.settings.kafka


@dataclass(kw_only=True)
class AuditRow:
    """The audit row of a running command that writes."""

    database: Database
    number: int

    async def save_progress(self, progress: Mapping[str, Any]) -> None:
        """Replace the stored progress; an interrupted command resumes from it."""
        async with self.database.connection() as connection:
            await audit.save_progress(connection, self.number, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCommand:
    """One invocation of a command, with the options that all commands share."""

    as_json: bool
    data_dir: Path | None
    apply: bool
    reason: str | None

    def run(
        self,
        body: Callable[[Operator], Coroutine[Any, Any, T]],
        *,
        lines: Callable[[T], Iterable[RenderableType | Hanging]],
        document: Callable[[T], Any] = lambda result: result,
    ) -> T:
        """Run `body`, print its result as JSON (`document`) or as text (`lines`), and return it.

        Raises:
            SettingsError: the environment is wrong.
            CommandError: a server is unavailable, the tables are missing, or `body` raised it.
        """
        result = run_with_operator(
            body,
            as_json=self.as_json,
            data_dir=self.data_dir,
            apply=self.apply,
            reason=self.reason,
        )
        if self.as_json:
            print_json(document(result))
        else:
            print_result(lines(result))
        return result


@contextmanager
def operator_command(
    *,
    as_json: bool,
    data_dir: Path | None = None,
    apply: bool = False,
    reason: str | None = None,
    interrupted: str = "interrupted",
) -> Iterator[OperatorCommand]:
    """Check `--reason`, then run a command's body; end with the exit code of its error.

    `interrupted` is the message after Ctrl-C.
    """
    with report_errors(as_json=as_json, interrupted=interrupted):
        if apply and not reason:
            raise CommandError(Exit.USAGE, REASON_MISSING)
        yield OperatorCommand(as_json=as_json, data_dir=data_dir, apply=apply, reason=reason)


def run_with_operator(
    body: Callable[[Operator], Coroutine[Any, Any, T]],
    *,
    as_json: bool,
    data_dir: Path | None = None,
    apply: bool = False,
    reason: str | None = None,
    connect: Connect | None = None,
) -> T:
    """Connect the servers, run `body` and return its result.

    Raises:
        SettingsError: the environment is wrong.
        CommandError: a server is unavailable, or the tables are missing.
    """
    settings, who, choice = _settings(data_dir)
    if apply and choice.note:
        raise CommandError(
            Exit.USAGE, f"--apply: it is unclear which servers to change: {choice.note}"
        )
    report = reporter(quiet=as_json)

    if choice.note:
        print_lines([Hanging("note: ", choice.note)], file=sys.stderr)

    async def work() -> T:
        async with (connect or _operator)(
            settings, who=who, report=report, apply=apply, reason=reason or ""
        ) as operator:
            return await body(operator)

    try:
        return asyncio.run(work())
    except (RetryableError, PublishRejectedError, KafkaError) as error:
        refused = next(
            (cause for cause in (error, error.__cause__) if isinstance(cause, _UNAUTHORIZED)), None
        )
        if refused is not None:
            message = f"Kafka: permission denied: {refused!r}; see: segue acls"
            raise CommandError(Exit.REFUSED, message) from error
        if isinstance(error, PublishRejectedError):
            raise CommandError(Exit.REFUSED, str(error)) from error
        if choice.stack is None and choice.unset:
            message = no_stack(choice.folder, way_out=f"set {' and '.join(choice.unset)}")
            raise CommandError(Exit.UNREACHABLE, message) from error
        failure = unavailable(settings.kafka, error) if isinstance(error, KafkaError) else error
        raise CommandError(Exit.UNREACHABLE, str(failure)) from error
    except asyncpg.InsufficientPrivilegeError as error:
        message = f"PostgreSQL: {error}; grant this role the right"
        raise CommandError(Exit.REFUSED, message) from error


@asynccontextmanager
async def audited_action(
    operator: Operator, command: str, *, arguments: Mapping[str, Any], resumes: Action | None = None
) -> AsyncIterator[AuditRow]:
    """Run the body under an audit row; `resumes` is the row of an interrupted command.

    Raises:
        CommandError: the operator gave no reason.
    """
    if not operator.reason:
        raise CommandError(Exit.USAGE, REASON_MISSING)
    async with operator.database.connection() as connection:
        if resumes is None:
            number = await audit.begin(
                connection,
                command=command,
                arguments=arguments,
                who=operator.who,
                reason=operator.reason,
                now=operator.clock.now(),
            )
        else:
            number = resumes.id
            await audit.resume(connection, number)
    state = ActionState.FAILED
    try:
        yield AuditRow(database=operator.database, number=number)
        state = ActionState.DONE
    except (
        asyncio.CancelledError,
        KeyboardInterrupt,
        RetryableError,
        PublishRejectedError,
        KafkaError,
    ):
        state = ActionState.INTERRUPTED
        raise
    finally:
        await asyncio.shield(_record_end(operator, number, state))


async def _record_end(operator: Operator, number: int, state: ActionState) -> None:
    with suppress(RetryableError):  # PostgreSQL is unavailable: the row stays `running`
        async with operator.database.connection() as connection:
            await audit.end(connection, number, state, now=operator.clock.now())


def _settings(data_dir: Path | None) -> tuple[ApiSettings, str, ServerChoice]:
    """Return the settings, the operator's name, and where the addresses come from."""
    overrides: dict[str, Any] = {}
    if data_dir is not None:
        overrides["home"] = DataDirSettings.from_environment(data_dir=data_dir)
    command = CommandSettings.from_environment(**overrides)
    choice = servers_of_environment(command.home.folder, only_stack=data_dir is not None)
    configure(TelemetrySettings.from_environment(log_level="error"))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the command reports the error once
    return ApiSettings.from_environment(), command.operator or _user(), choice


def servers_of_environment(folder: Path, *, only_stack: bool = False) -> ServerChoice:
    """Choose the servers of this process, before its settings are read (`choose_servers`).

    Raises:
        CommandError: `only_stack`, and no stack runs on `folder`.
    """
    return choose_servers(folder, os.environ, only_stack=only_stack)  # noqa: TID251 - at the start


def _user() -> str:
    """Return the user at this machine, for the audit."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


@asynccontextmanager
async def _operator(
    settings: ApiSettings, *, who: str, report: Report, apply: bool, reason: str
) -> AsyncIterator[Operator]:
    async with AsyncExitStack() as stack:
        database = Database(settings.database)
        stack.push_async_callback(database.close)
        await database.open()
        async with database.connection() as connection:
            if not await connection.fetchval(_HAS_TABLES):
                raise CommandError(
                    Exit.REFUSED,
                    "the database has no tables of this version: start the api once to create them",
                )
        store = open_store(settings.store)
        stack.push_async_callback(store.close)
        yield Operator(
            settings=settings,
            database=database,
            store=store,
            who=who,
            report=report,
            apply=apply,
            reason=reason,
        )
