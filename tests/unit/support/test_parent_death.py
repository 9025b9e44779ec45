"""Tests of `parent_death`: processes end when the test run that started them dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.parent_death import MORTAL

pytestmark = pytest.mark.skipif(not MORTAL, reason="needs Linux and setpriv")

ENDED_S = 10.0
SLEEP = "print('up', flush=True); import time; time.sleep(600)"
STARTER = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"up\\n"
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "child",
    [
        pytest.param([*MORTAL, sys.executable, "-c", SLEEP], id="started"),
        pytest.param(
            [
                sys.executable,
                "-c",
                (
                    "from tests.support.parent_death import end_with_parent; "
                    f"end_with_parent(); {SLEEP}"
                ),
            ],
            id="forked",
        ),
    ],
)
def test_a_process_ends_when_its_parent_is_killed(child: list[str]) -> None:
    """The kernel ends the child: the killed parent cannot."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *child], stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert _is_running(pid)
        starter.send_signal(signal.SIGKILL)
    end = time.monotonic() + ENDED_S
    while _is_running(pid):
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, not reaped yet
