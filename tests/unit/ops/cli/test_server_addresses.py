"""Which servers a command uses: those of the environment, or those of the stack on this machine."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ops.__main__ import app
from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator, run_with_operator
from ops.cli.server_addresses import ADDRESS_VARIABLES, choose_servers, no_stack
from ops.doctor.machine import run_checks
from shared.local_stack import RunningStack, lock_data_dir, write_stack_files

OF_STACK = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
    "SEGUE_KAFKA_EPOCH": "7",
    "SEGUE_TOPIC_PREFIX": "",
    "DATABASE_URL": "postgresql://stack/segue",
    "SEGUE_STORE_DIR": "/data/objects",
}
ELSEWHERE = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
    "DATABASE_URL": "postgresql://db.example/segue",
    "MINIO_ENDPOINT": "http://minio.example:9000",
}
#: every command that needs a stack or servers, with arguments that are valid
NEEDS_SERVERS = {
    "status": ["j"],
    "jobs": [],
    "job": ["j"],
    "watch": ["--once"],
    "lag": [],
    "cancel": ["j"],
    "redrive": ["j"],
    "replay": ["scene.requested"],
    "rebuild": [],
    "topics": [],
    "prepare": ["--within", "0.2"],
    "dlq list": ["scene.requested"],
    "dlq show": ["scene.requested.dlq/0/0"],
    "dlq requeue": ["scene.requested"],
    "dlq discard": ["--job", "j"],
    "store sweep": [],
    "store link": ["jobs/j/track.mp3"],
}
STARTS_OR_NEEDS_NONE = {"up", "demo", "score", "scenes", "doctor", "acls", "schemas", "fetch"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    """Return the data folder of a running stack."""
    lock = lock_data_dir(tmp_path)
    assert lock is not None
    running = RunningStack(
        pid=os.getpid(),
        api_url="http://127.0.0.1:1",
        provider="silence",
        started_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
    )
    write_stack_files(tmp_path, running, environment=OF_STACK)
    yield tmp_path
    os.close(lock)


@pytest.fixture
def without_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Return a patch of an environment that names no server, and an empty data folder."""
    for variable in (*ADDRESS_VARIABLES, "SEGUE_API_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SEGUE_DATA_DIR", str(tmp_path / "home"))
    return monkeypatch


def test_without_variables_everything_is_the_stacks(stack: Path) -> None:
    """A user and a certificate of another cluster are not sent to the stack's."""
    environment = {"KAFKA_SASL_USERNAME": "me", "DATABASE_URL": "", "HOME": "/home/me"}

    choice = choose_servers(stack, environment)

    assert environment == {**OF_STACK, "HOME": "/home/me"}
    assert choice.stack is not None
    assert (choice.note, choice.unset) == ("", ())


@pytest.mark.parametrize("variable", ELSEWHERE)
def test_one_exported_variable_does_not_hide_the_stack(stack: Path, variable: str) -> None:
    """It is used for its server, and a note says so; the other servers are the stack's."""
    environment = {variable: ELSEWHERE[variable]}

    choice = choose_servers(stack, environment)

    others = {"SEGUE_STORE_DIR"} if variable == "MINIO_ENDPOINT" else set()
    if variable == "KAFKA_BOOTSTRAP_SERVERS":
        others = {name for name in OF_STACK if "KAFKA" in name or "TOPIC" in name}
    expected = {name: value for name, value in OF_STACK.items() if name not in others}
    assert environment == {**expected, variable: ELSEWHERE[variable]}
    assert choice.note.startswith(f"{variable} of this shell and not of the stack on {stack}")


def test_a_variable_with_the_stacks_own_value_needs_no_note(stack: Path) -> None:
    """The user has loaded a part of `stack.env`."""
    environment = {"DATABASE_URL": OF_STACK["DATABASE_URL"]}

    assert choose_servers(stack, environment).note == ""
    assert environment == OF_STACK


def test_an_environment_that_names_every_server_is_used_alone(stack: Path) -> None:
    """A demo on the same machine does not change what an operator works on."""
    environment = dict(ELSEWHERE)

    choice = choose_servers(stack, environment)

    assert environment == ELSEWHERE
    assert (choice.stack, choice.note) == (None, "")


def test_a_named_folder_wins_over_the_environment(stack: Path) -> None:
    """Nothing of the other servers is left."""
    environment = {**ELSEWHERE, "MINIO_BUCKET": "other", "KAFKA_SASL_USERNAME": "me"}

    choose_servers(stack, environment, only_stack=True)

    assert environment == OF_STACK


def test_a_named_folder_without_a_stack_is_reported(tmp_path: Path) -> None:
    """The message has the command that starts one there."""
    with pytest.raises(CommandError) as raised:
        choose_servers(tmp_path, {}, only_stack=True)

    assert raised.value.code is Exit.UNREACHABLE
    assert str(raised.value) == (
        f'No stack is running on {tmp_path}. Start one with "segue up --data-dir {tmp_path}".'
    )


def test_a_stack_that_is_starting_is_not_reported_as_missing(tmp_path: Path) -> None:
    """It holds the lock and has not written its files yet."""
    lock = lock_data_dir(tmp_path)
    assert lock is not None
    try:
        message = no_stack(tmp_path, way_out="x")
    finally:
        os.close(lock)

    assert message.startswith(f"The stack on {tmp_path} is starting or stopping. Run the same")


def test_changes_on_a_mixture_of_servers_are_refused(
    stack: Path, without_addresses: pytest.MonkeyPatch
) -> None:
    """With the database of one installation and the topics of another, nothing is right."""
    without_addresses.setenv("SEGUE_DATA_DIR", str(stack))
    for name in OF_STACK:  # restored afterwards: the command changes the environment
        without_addresses.setenv(name, "")
    without_addresses.setenv("DATABASE_URL", ELSEWHERE["DATABASE_URL"])

    async def body(_: Operator) -> None:
        pytest.fail("the body ran")

    with pytest.raises(CommandError, match="unclear which servers to change: DATABASE_URL"):
        run_with_operator(body, as_json=True, apply=True, reason="to see")


def commands_of(group: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all commands."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_every_command_is_in_the_lists_of_this_test() -> None:
    """A new one needs its arguments there."""
    names = set(commands_of(typer.main.get_command(app)))

    assert names - STARTS_OR_NEEDS_NONE == set(NEEDS_SERVERS)


@pytest.mark.usefixtures("without_addresses")
@pytest.mark.parametrize("command", NEEDS_SERVERS)
def test_every_command_says_that_no_stack_is_running(command: str) -> None:
    """The same sentence with the same exit code, and no address of a server that never ran."""
    result = CliRunner().invoke(app, [*command.split(), *NEEDS_SERVERS[command]])

    assert result.exit_code == Exit.UNREACHABLE, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith('segue: No stack is running here. Start one with "segue up", or ')
    assert "ConnectionRefused" not in last


@pytest.mark.parametrize(
    ("variable", "missing"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL."),
        ("MINIO_ENDPOINT", "DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS."),
    ],
)
def test_the_message_names_what_is_not_set(
    without_addresses: pytest.MonkeyPatch, variable: str, missing: str
) -> None:
    """What the environment has is not asked for again."""
    without_addresses.setenv(variable, ELSEWHERE[variable])

    result = CliRunner().invoke(app, ["jobs"])

    assert result.stderr.endswith(f'"segue up", or set {missing}\n')


def test_doctor_reports_the_provider_of_the_running_stack(
    stack: Path, without_addresses: pytest.MonkeyPatch
) -> None:
    """The shell's own MUSIC_PROVIDER has no effect on it."""
    from ops.cli.settings import CommandSettings  # noqa: PLC0415

    without_addresses.setenv("MUSIC_PROVIDER", "synth")
    settings = CommandSettings.of_options(api=None, data_dir=stack)
    environment = {"DATABASE_URL": ELSEWHERE["DATABASE_URL"]}
    choice = choose_servers(stack, environment)

    checks = {check.name: check for check in run_checks(settings, choice)}

    assert checks["music"].found == "silence (no music), of the running stack"
    assert checks["stack"].found == f"process {os.getpid()} since 2026-01-01T12:00:00Z on {stack}"
    assert (checks["api"].ok, checks["api"].needed) == (False, True)
    assert "DATABASE_URL" in checks["environment"].found
