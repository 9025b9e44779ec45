"""Stacks: the stack that a command works with: the one named, the one that runs, or one of its own.

A stack of its own is a child in a session of its own, so that Ctrl-C reaches the command alone,
with its words in `stack.log`. It lives as long as a command holds the clients' lock
(`shared/local_stack.py`), so two commands may share it, and one that dies leaves none behind.

Units: seconds. I/O: processes, files, HTTP to loopback.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from shared.local_stack import ClientLock, RunningStack, client_lock, find_stack, is_data_dir_locked

START_S = 90.0  # 3 s on an idle machine
STOP_S = 15.0  # the stack takes at most 10 s
_LOCK_S = 20.0  # for a stack that is just stopping
_POLL_S = 0.1
_LOG_CHARS = 2000
#: where the project's packages lie; a child started there finds them, whatever lies in our folder
HOUSE = Path(__file__).resolve().parents[2]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StackUse:
    """The stack that a command may use."""

    api_url: str
    own: bool  #: started for this command, and stopped after it


@contextmanager
def a_stack(folder: Path, *, provider: str | None, say: Say) -> Iterator[StackUse]:
    """The stack on `folder`, started if none runs; one of our own is stopped at the end.

    Raises:
        CommandError: it does not start, or makes its music with another provider than asked.
    """
    with client_lock(folder) as lock:
        _share(lock, folder)
        found = _answering(folder)
        if found is not None:
            _check_provider(found, provider)
            yield StackUse(api_url=found.api_url, own=False)
            return
        say("starting the embedded stack")
        child = _start(folder, provider)
        try:
            stack = _wait(child, folder)
            yield StackUse(api_url=stack.api_url, own=True)
        finally:
            if lock.try_lock_exclusive():  # else another command uses it, and the last one ends it
                _stop(child)


def stack_command(
    *,
    folder: Path | None,
    port: int | None,
    provider: str | None,
    kind: str | None = None,
    while_used: bool = False,
) -> list[str]:
    """The command that runs a stack; to be run in `HOUSE`."""
    command = [sys.executable, "-m", "embedded"]
    said = {"--data-dir": folder, "--port": port, "--provider": provider, "--stack": kind}
    for option, value in said.items():
        if value is not None:
            command += [option, str(value)]
    return [*command, "--while-used"] if while_used else command


def _share(lock: ClientLock, folder: Path) -> None:
    end = time.monotonic() + _LOCK_S
    while not lock.try_lock_shared():
        if time.monotonic() > end:
            raise CommandError(
                Exit.UNREACHABLE, f"the stack on {folder} has been stopping for {_LOCK_S:g} s"
            )
        time.sleep(_POLL_S)


def _answering(folder: Path) -> RunningStack | None:
    found = find_stack(folder)
    if found is None:
        return None
    with ApiClient(found.api_url) as api:
        return found if api.is_alive else None


def _start(folder: Path, provider: str | None) -> subprocess.Popen[bytes]:
    command = stack_command(folder=folder, port=0, provider=provider, while_used=True)
    with (folder / "stack.log").open("ab" if is_data_dir_locked(folder) else "wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=HOUSE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(child: subprocess.Popen[bytes], folder: Path) -> RunningStack:
    """The stack once it answers: the child's, or one that another command just started."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        ended = child.poll() is not None
        found = _answering(folder)
        if found is not None and (ended or found.pid == child.pid):
            return found
        if ended and not is_data_dir_locked(folder):  # else another command's stack is starting
            break
        time.sleep(_POLL_S)
    log = folder / "stack.log"
    words = log.read_text(errors="replace")[-_LOG_CHARS:].strip()
    raise CommandError(Exit.UNREACHABLE, f"the embedded stack did not start; {log} ends:\n{words}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()  # its PostgreSQL is ended by the warden
        child.wait(STOP_S)


def _check_provider(found: RunningStack, provider: str | None) -> None:
    if provider is not None and provider != found.provider:
        raise CommandError(
            Exit.USAGE,
            f"the stack at {found.api_url} makes its music with {found.provider}, not {provider}: "
            "stop it, or leave out --provider",
        )
