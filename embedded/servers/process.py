"""Server: one supervised child process, for the servers that Segue starts on this machine.

A server is started under a warden (`warden.py`), waited for until it answers, and stopped so
that no process stays behind, whatever becomes of us. Its output goes to a file, and the last
words of that file into the error when it does not start.

Units: seconds. I/O: processes, files, sockets. Calls block; from a loop use `asyncio.to_thread`.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from embedded.servers import watchdog
from shared.errors import ServerStartError

Argv = Sequence[str | Path]
POLL_S = 0.05  # between two questions whether a server answers; cheap beside its start
_TAIL_BYTES = 4096
_CLAIM_S = 2.0  # for one that is ending; one that runs will not end by being waited for
_WARDEN_S = 5.0  # over the server's own time to stop: the warden's last act is a SIGKILL


class Server:
    """One child process. `start` returns when it answers; `stop` when it is gone."""

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
        self._claim: BinaryIO | None = None
        self._warden: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._warden is not None and self._warden.poll() is None

    def claim(self) -> None:
        """Make this server the only one with this log, until its last process is gone.

        Whoever prepares a server's folder claims it first; `start` does so in any case.

        Raises:
            ServerStartError: another one runs.
        """
        if self._claim is not None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        claim = self.log.open("ab")
        end = time.monotonic() + _CLAIM_S
        while True:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    claim.close()
                    folder = self.log.parent
                    raise ServerStartError(f"{self.name} already runs on {folder}") from error
                time.sleep(POLL_S)
            else:
                self._claim = claim
                return

    def start(
        self,
        argv: Argv,
        *,
        answers: Callable[[], bool],
        ready_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv` and return when `answers()`; `environment` is added to our own.

        Raises:
            ServerStartError: it ended by itself, or did not answer within `ready_s`.
        """
        assert not self.is_running, f"{self.name} runs already"
        self.claim()
        self._warden = self._spawn(argv, environment or {})
        try:
            self._wait(self._warden, answers, ready_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, kindly at first; nothing happens when it does not run."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        if self._warden is None:
            return
        assert self._warden.stdin is not None
        with contextlib.suppress(OSError):
            self._warden.stdin.close()
        try:
            self._warden.wait(self._stop_s + _WARDEN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._warden.pid, signal.SIGKILL)
            self._warden.wait(_WARDEN_S)
        self._warden = None

    def _wait(
        self, process: subprocess.Popen[bytes], answers: Callable[[], bool], ready_s: float
    ) -> None:
        end = time.monotonic() + ready_s
        while not answers():
            if (code := process.poll()) is not None:
                raise self._failure(f"it ended with exit code {code}")
            if time.monotonic() > end:
                raise self._failure(f"it gave no answer within {ready_s:g} s")
            time.sleep(POLL_S)

    def _spawn(self, argv: Argv, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        head = [sys.executable, "-I", "-S", watchdog.__file__]
        grace = [str(int(self._stop_signal)), str(self._stop_s)]
        assert self._claim is not None, "claimed by `start`"
        return subprocess.Popen(  # noqa: S603 - a list of our own making
            [*head, *grace, *map(str, argv)],
            stdin=subprocess.PIPE,
            stdout=self._claim,  # inherited: the claim lasts as long as a process that has it
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},  # noqa: TID251 - a child inherits it
        )

    def _failure(self, what: str) -> ServerStartError:
        return ServerStartError(f"{self.name} did not start: {what}\n{tail(self.log)}".rstrip())


def tail(log: Path) -> str:
    """The last words of a log file; empty when there is none."""
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
        ServerStartError: it is not there, failed, or took longer than `timeout_s`.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of our own making
            [str(part) for part in argv],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd=folder,
            start_new_session=True,  # a Ctrl-C is for us, and we end it
            env={**os.environ, **(environment or {})},  # noqa: TID251 - a child inherits it
        )
    except subprocess.TimeoutExpired as error:
        raise ServerStartError(f"{what}: no end within {timeout_s:g} s") from error
    except OSError as error:
        raise ServerStartError(f"{what}: {error.strerror}: {argv[0]}") from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-_TAIL_BYTES:]
        raise ServerStartError(f"{what}: exit code {done.returncode}\n{words}".rstrip())
    return done.stdout + done.stderr
