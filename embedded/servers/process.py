"""Starts and stops one server as a child process under a watchdog.

`start` returns when the server answers. The watchdog (`watchdog.py`) stops the server even if this
process is killed. The output of the server goes to a file, and the end of that file into the error
if it does not start.

Two locks guard the folder of a server, both released by the kernel: this process holds the one on
`<log>.owner`, and every process of the server the one on its log. So a new start knows whether the
folder has an owner, and otherwise waits until the last process of a killed one has ended.

Units: seconds. I/O: processes, files, sockets. Calls block; from a loop use `asyncio.to_thread`.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from embedded.servers import watchdog
from shared.errors import ServerStartError

Argv = Sequence[str | Path]
T = TypeVar("T")
POLL_S = 0.05  # between two checks whether a server answers
_TAIL_BYTES = 4096
_OWNER_S = 2.0  # for an owner that is stopping
_PORT_TRIES = 3
_WATCHDOG_S = 5.0  # beyond the server's grace period, after which it is killed


class Server:
    """One server process."""

    def __init__(
        self,
        name: str,
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_s: float = 15.0,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._stop_s = stop_s
        self._locked_log: BinaryIO | None = None
        self._locks = ExitStack()
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._watchdog is not None and self._watchdog.poll() is None

    def lock(self) -> None:
        """Lock the folder until the last process of the server has ended.

        Code that prepares the server's folder locks it first; `start` locks it otherwise.

        Raises:
            ServerStartError: another server runs on the folder, or it is not writable.
        """
        if self._locked_log is not None:
            return
        folder = self.log.parent
        with file_errors(self.name):
            folder.mkdir(parents=True, exist_ok=True)
            owner = self._locks.enter_context(self.log.with_suffix(".owner").open("ab"))
            log = self._locks.enter_context(self.log.open("ab"))
        if not _lock(owner, within_s=_OWNER_S):
            self._locks.close()
            raise ServerStartError(f"{self.name} already runs on {folder}")
        if not _lock(log, within_s=self._stop_s + _WATCHDOG_S):
            holders = ", ".join(map(str, _processes_with(self.log))) or "unknown"
            self._locks.close()
            raise ServerStartError(
                f"{self.name} of an earlier start still runs on {folder}; stop its processes: "
                f"{holders}"
            )
        self._locked_log = log

    def start(
        self,
        argv: Argv,
        *,
        answers: Callable[[], bool],
        ready_s: float,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start `argv` in `folder`, return once `answers()`; `environment` extends this process's.

        Raises:
            ServerStartError: it ended, or did not answer within `ready_s`.
        """
        assert not self.is_running, f"{self.name} runs already"
        self.lock()
        self._watchdog = self._spawn(argv, environment or {}, folder)
        try:
            self._wait(self._watchdog, answers, ready_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the process, with SIGKILL after its grace period; idempotent."""
        try:
            self._stop()
        finally:
            self._locks.close()
            self._locked_log = None

    def _stop(self) -> None:
        if self._watchdog is None:
            return
        assert self._watchdog.stdin is not None
        with contextlib.suppress(OSError):
            self._watchdog.stdin.close()
        try:
            self._watchdog.wait(self._stop_s + _WATCHDOG_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._watchdog.pid, signal.SIGKILL)
            self._watchdog.wait(_WATCHDOG_S)
        self._watchdog = None

    def _wait(
        self, process: subprocess.Popen[bytes], answers: Callable[[], bool], ready_s: float
    ) -> None:
        end = time.monotonic() + ready_s
        while not answers():
            if (code := process.poll()) is not None:
                raise self._failure(f"it ended with exit code {code}")
            if time.monotonic() > end:
                raise self._failure(f"no answer within {ready_s:g} s")
            time.sleep(POLL_S)

    def _spawn(
        self, argv: Argv, environment: Mapping[str, str], folder: Path | None
    ) -> subprocess.Popen[bytes]:
        head = [sys.executable, "-I", "-S", watchdog.__file__]
        grace = [str(int(self._stop_signal)), str(self._stop_s)]
        assert self._locked_log is not None, "locked by `start`"
        return subprocess.Popen(  # noqa: S603 - our own arguments
            [*head, *grace, *map(str, argv)],
            stdin=subprocess.PIPE,
            stdout=self._locked_log,  # inherited: the lock lasts as long as a process has it
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **environment},  # noqa: TID251 - a child inherits it
        )

    def _failure(self, what: str) -> ServerStartError:
        return ServerStartError(f"{self.name} did not start: {what}\n{tail(self.log)}".rstrip())


@contextmanager
def file_errors(name: str) -> Iterator[None]:
    """Turn an error of the file system into one of the start of the server `name`.

    Raises:
        ServerStartError: the message names the file and what to do.
    """
    try:
        yield
    except OSError as error:
        raise ServerStartError(
            f"{name} did not start: {error.filename or 'its folder'}: {error.strerror}; free some "
            "space or correct the owner, or set another data folder (SEGUE_DATA_DIR)"
        ) from error


def with_free_ports(start: Callable[[], T]) -> T:
    """Return the result of `start`, repeated if another process took its port meanwhile.

    Raises:
        ServerStartError: of `start`.
    """
    for tries_left in reversed(range(_PORT_TRIES)):
        try:
            return start()
        except ServerStartError as error:
            is_conflict = re.search("address already in use", str(error), re.IGNORECASE)
            if not tries_left or not is_conflict:
                raise
    raise AssertionError("the last try returns or raises")


def tail(log: Path) -> str:
    """Return the end of a log file; empty if there is none."""
    try:
        text = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return f"the end of {log}:\n{text.strip()}"


def run_tool(
    what: str,
    argv: Argv,
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    folder: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        ServerStartError: it was not found, failed, or took longer than `timeout_s`.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [str(part) for part in argv],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd=folder,
            start_new_session=True,  # Ctrl-C reaches this process alone
            env={**os.environ, **(environment or {})},  # noqa: TID251 - a child inherits it
        )
    except subprocess.TimeoutExpired as error:
        raise ServerStartError(f"{what}: timed out after {timeout_s:g} s") from error
    except OSError as error:
        raise ServerStartError(f"{what}: {error.strerror}: {argv[0]}") from error
    if done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip())[-_TAIL_BYTES:]
        raise ServerStartError(f"{what}: exit code {done.returncode}\n{output}".rstrip())
    return done.stdout + done.stderr


def _lock(file: BinaryIO, *, within_s: float) -> bool:
    """Lock the file; return False if another process holds it for `within_s`."""
    end = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _processes_with(file: Path) -> list[int]:
    """Return the other processes that have this file open; empty on systems without /proc."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if descriptor.readlink() == file.resolve():
                found.add(int(descriptor.parts[2]))
    return sorted(found - {os.getpid()})
