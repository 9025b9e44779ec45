"""The `segue up` command; finds or starts the stack of other commands.

A stack started for a command is a child in its own session, so that Ctrl-C reaches the command
alone; its output goes to `stack.log`. It runs while a command holds the clients' lock
(`shared/local_stack.py`): two commands may share it, and a command that dies leaves none behind.

Units: seconds. I/O: processes, files, HTTP to loopback.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ops.cli.exit_codes import CommandError, Exit, report_errors
from ops.cli.options import DataDir, Provider
from ops.cli.server_addresses import no_stack
from ops.cli.settings import CommandSettings
from ops.score.api_client import ApiClient
from shared.local_stack import (
    ClientLock,
    DataDirSettings,
    RunningStack,
    client_lock,
    find_stack,
    is_data_dir_locked,
)

START_S = 90.0  # 3 s on an idle machine
STOP_S = 15.0  # the stack takes at most 10 s
_LOCK_S = 20.0  # for a stack that is stopping
_POLL_S = 0.1
_LOG_CHARS = 2000
#: the folder of the project's packages; a child started there imports these, not those of the cwd
PACKAGES_FOLDER = Path(__file__).resolve().parents[2]
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StackUse:
    """The stack that a command uses."""

    api_url: str
    started_here: bool  #: started for this command, and stopped after it


def up(
    provider: Provider = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address that the api listens on (SEGUE_API_HOST): 0.0.0.0 is every one."
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the api; 0: any free one.")] = None,
    data_dir: DataDir = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Servers: embedded, native (real ones) or external (SEGUE_STACK)."),
    ] = None,
) -> None:
    """Run all of Segue on this machine until Ctrl-C."""
    folder = None if data_dir is None else data_dir.absolute()
    command = stack_command(folder=folder, host=host, port=port, provider=provider, kind=stack)
    if folder is None:  # a relative SEGUE_DATA_DIR is relative to the user's folder, not to ours
        with report_errors(as_json=False):
            command += ["--data-dir", str(DataDirSettings.from_environment().folder)]
    os.chdir(PACKAGES_FOLDER)
    os.execv(command[0], command)  # noqa: S606 - our own program replaces this process


def running_api(settings: CommandSettings) -> str:
    """Return the URL of the named api, or of the local stack.

    Raises:
        CommandError: no api is named and no stack runs here.
    """
    if settings.api_url is not None:
        return settings.api_url
    stack = find_stack(settings.home.folder)
    if stack is None:
        message = no_stack(settings.home.folder, way_out="name an api with --api (SEGUE_API_URL)")
        raise CommandError(Exit.UNREACHABLE, message)
    return stack.api_url


@contextmanager
def use_stack(folder: Path, *, provider: str | None, notify: Notify) -> Iterator[StackUse]:
    """Yield the stack on `folder`; start and stop one if none runs.

    Raises:
        CommandError: it does not start, or it runs with another provider.
    """
    with client_lock(folder) as lock:
        _acquire_shared(lock, folder)
        stack = _answering_stack(folder)
        if stack is not None:
            _check_provider(stack, provider)
            yield StackUse(api_url=stack.api_url, started_here=False)
            return
        notify("Starting the embedded stack")
        child = _start(folder, provider)
        try:
            stack = _wait_until_ready(child, folder)
            yield StackUse(api_url=stack.api_url, started_here=True)
        finally:
            if lock.try_lock_exclusive():  # else the other command that uses it stops it
                _stop(child)


def stack_command(
    *,
    folder: Path | None,
    port: int | None,
    provider: str | None,
    host: str | None = None,
    kind: str | None = None,
    while_used: bool = False,
) -> list[str]:
    """Return the command line that runs a stack; its cwd must be `PACKAGES_FOLDER`."""
    command = [sys.executable, "-m", "embedded"]
    options = {"--data-dir": folder, "--host": host, "--port": port}
    options |= {"--provider": provider, "--stack": kind}
    for option, value in options.items():
        if value is not None:
            command += [option, str(value)]
    return [*command, "--while-used"] if while_used else command


@contextmanager
def open_api(
    settings: CommandSettings, *, provider: str | None, notify: Notify
) -> Iterator[ApiClient]:
    """Yield a client of the named api, or of the local stack; start that if none runs.

    Raises:
        CommandError: the stack does not start, or it runs with another provider.
    """
    with ExitStack() as resources:
        url = settings.api_url
        if url is None:
            stack = use_stack(settings.home.folder, provider=provider, notify=notify)
            url = resources.enter_context(stack).api_url
        yield resources.enter_context(ApiClient(url))


def _acquire_shared(lock: ClientLock, folder: Path) -> None:
    end = time.monotonic() + _LOCK_S
    while not lock.try_lock_shared():
        if time.monotonic() > end:
            raise CommandError(
                Exit.UNREACHABLE, f"the stack on {folder} has been stopping for {_LOCK_S:g} s"
            )
        time.sleep(_POLL_S)


def _answering_stack(folder: Path) -> RunningStack | None:
    stack = find_stack(folder)
    if stack is None:
        return None
    with ApiClient(stack.api_url) as api:
        return stack if api.is_alive else None


def _start(folder: Path, provider: str | None) -> subprocess.Popen[bytes]:
    command = stack_command(folder=folder, port=0, provider=provider, while_used=True)
    with (folder / "stack.log").open("ab" if is_data_dir_locked(folder) else "wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=PACKAGES_FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"SEGUE_LOG_FORMAT": "text", **os.environ},  # noqa: TID251 - the child's
        )


def _wait_until_ready(child: subprocess.Popen[bytes], folder: Path) -> RunningStack:
    """Return the stack once it answers: the child's, or another command's."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        has_ended = child.poll() is not None
        stack = _answering_stack(folder)
        if stack is not None and (has_ended or stack.pid == child.pid):
            return stack
        if has_ended and not is_data_dir_locked(folder):  # else another is starting
            break
        time.sleep(_POLL_S)
    log = folder / "stack.log"
    tail = log.read_text(errors="replace")[-_LOG_CHARS:].strip()
    raise CommandError(
        Exit.UNREACHABLE, f"the embedded stack did not start; the end of {log}:\n{tail}"
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()  # the watchdog stops its PostgreSQL
        child.wait(STOP_S)


def _check_provider(stack: RunningStack, provider: str | None) -> None:
    if provider is not None and provider != stack.provider:
        raise CommandError(
            Exit.USAGE,
            f"the stack at {stack.api_url} uses the provider {stack.provider}, not {provider}; "
            "stop it, or leave out --provider",
        )
