"""The common part of operator commands: the reason, and the exit code of a server's error."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import (
    REASON_MISSING,
    Operator,
    operator_command,
    run_with_operator,
)
from services.api.operators import ApiSettings, Database
from shared.errors import RetryableError
from shared.storage.filesystem import FolderStore


def wrapped(cause: KafkaError) -> RetryableError:
    """Return the error as the publisher raises it."""
    error = RetryableError("publishing was not confirmed")
    error.__cause__ = cause
    return error


def error_of_command(error: Exception, folder: Path) -> CommandError:
    """Return what a command reports if its body raises `error`."""

    @asynccontextmanager
    async def no_servers(settings: ApiSettings, **options: Any) -> AsyncIterator[Operator]:
        yield Operator(
            settings=settings,
            database=Database(settings.database),
            store=FolderStore(folder),
            **options,
        )

    async def body(_: Operator) -> NoReturn:
        raise error

    with pytest.raises(CommandError) as raised:
        run_with_operator(body, as_json=True, connect=no_servers)
    return raised.value


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RetryableError("PostgreSQL is away"), Exit.UNREACHABLE, "PostgreSQL is away"),
        (KafkaConnectionError("gone"), Exit.UNREACHABLE, "Kafka at 127.0.0.1:9: "),
        (wrapped(KafkaConnectionError("gone")), Exit.UNREACHABLE, "not confirmed"),
        (TopicAuthorizationFailedError("video.muxed"), Exit.REFUSED, "permission denied"),
        (wrapped(TopicAuthorizationFailedError("video.muxed")), Exit.REFUSED, "video.muxed"),
    ],
)
def test_an_unavailable_server_can_be_retried_and_a_missing_permission_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: Exit, message: str
) -> None:
    """The exit code separates the two; the message names what to do."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/segue")

    reported = error_of_command(error, tmp_path)

    assert message in str(reported)
    assert reported.code is code


@pytest.mark.parametrize("empty", [set(), {"DATABASE_URL"}, {"KAFKA_BOOTSTRAP_SERVERS"}])
def test_without_a_stack_and_without_addresses_the_message_names_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: set[str]
) -> None:
    """The default addresses of servers that were never started are of no use to the reader.

    An empty variable names no server, as everywhere in the settings.
    """
    for variable in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    for variable in empty:
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("SEGUE_DATA_DIR", str(tmp_path))

    reported = error_of_command(RetryableError("PostgreSQL: connection refused"), tmp_path)

    assert str(reported) == (
        'No stack is running here. Start one with "segue up", or set DATABASE_URL and '
        "KAFKA_BOOTSTRAP_SERVERS."
    )
    assert reported.code is Exit.UNREACHABLE


def test_a_missing_reason_is_reported_before_any_server_is_connected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command's body does not run."""
    with (
        pytest.raises(typer.Exit) as ended,
        operator_command(as_json=True, apply=True, reason=None),
    ):
        pytest.fail("the body ran")

    assert ended.value.exit_code == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["error"] == REASON_MISSING
