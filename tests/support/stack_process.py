"""Start the embedded stack and the `segue` command as processes, as a user does.

Each uses a folder of the test, so every process whose command line has that folder is the test's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from shared.local_stack import RunningStack, find_stack
from tests.support.fork_server import REPOSITORY
from tests.support.parent_death import MORTAL

START_S = 60.0
STOP_S = 30.0
JOB_S = 90.0
COMMAND_S = 150.0
_POLL_S = 0.1
T = TypeVar("T")


def until(question: Callable[[], T | None], *, within_s: float, what: str) -> T:
    """Call `question` until it returns something; return that."""
    end = time.monotonic() + within_s
    while (answer := question()) is None:
        assert time.monotonic() < end, f"timeout after {within_s:g} s: {what}"
        time.sleep(_POLL_S)
    return answer


class StackProcess:
    """One `python -m embedded` on a folder."""

    def __init__(
        self, home: Path, *args: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.log = home.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *MORTAL,
                    sys.executable,
                    "-m",
                    "embedded",
                    "--port",
                    "0",
                    "--data-dir",
                    home,
                    *args,
                ],
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},  # noqa: TID251 - the child's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> RunningStack:
        """Wait until the stack is ready; return its addresses."""

        def announced() -> RunningStack | None:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            stack = find_stack(self.home)
            return stack if stack and stack.pid == self.process.pid else None

        return until(announced, within_s=START_S, what="stack is ready")

    def ended(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.terminate()
        return self.ended()


@contextmanager
def a_stack(
    home: Path, *args: str, environment: Mapping[str, str] | None = None
) -> Iterator[StackProcess]:
    """Start a stack; stop it at the end."""
    stack = StackProcess(home, *args, environment=environment)
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.stop()


def segue(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the `segue` command; return the result."""
    return subprocess.run(
        [sys.executable, "-m", "ops", *map(str, args)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


@contextmanager
def segue_started(*args: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start the `segue` command; kill it at the end."""
    process = subprocess.Popen(
        [*MORTAL, sys.executable, "-u", "-m", "ops", *map(str, args)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=STOP_S)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that mention `folder`."""
    return list(_processes_by_id(folder).values())


def kill_all(folder: Path) -> None:
    """Send SIGKILL to every process that mentions `folder`, as a power cut ends them."""
    for number in _processes_by_id(folder):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _processes_by_id(folder: Path) -> dict[int, str]:
    found = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # the process has ended
        if str(folder) in words:
            found[int(place.parent.name)] = words.strip()
    return found


def none_left(folder: Path) -> bool:
    """Wait until no process mentions `folder`; return True."""
    return until(
        lambda: True if not processes_of(folder) else None, within_s=STOP_S, what="nothing left"
    )


def start_job(api_url: str, job_id: str, *, durations_s: list[float], **body: Any) -> None:
    """Post a generate-scenes request."""
    scenes = [{"description": "a calm lake", "duration_s": length} for length in durations_s]
    answer = httpx.post(
        f"{api_url}/api/v3/audio/generate-scenes",
        json={"job_id": job_id, "scenes": scenes, **body},
        trust_env=False,
    )
    assert answer.status_code == 202, answer.text


def status_of(api_url: str, job_id: str) -> dict[str, Any]:
    """Return the status of a job."""
    answer = httpx.get(f"{api_url}/api/v3/audio/status/{job_id}", trust_env=False)
    assert answer.status_code == 200, answer.text
    status: dict[str, Any] = json.loads(answer.content)
    return status


def finished(api_url: str, job_id: str) -> dict[str, Any]:
    """Wait until a job is completed or failed; return the status."""

    def ended() -> dict[str, Any] | None:
        status = status_of(api_url, job_id)
        return status if status["audio_status"]["status"] in {"completed", "failed"} else None

    return until(ended, within_s=JOB_S, what=f"job {job_id} ended")
