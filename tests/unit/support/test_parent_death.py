"""Processes of tests end with the run that started them, however that ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.parent_death import MORTAL

pytestmark = pytest.mark.skipif(not MORTAL, reason="nobody ends children here (Linux, setpriv)")

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
def test_a_process_ends_with_a_starter_that_is_killed(child: list[str]) -> None:
    """SIGKILL: nobody is left to end what it started."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *child], stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert _is_there(pid)
        starter.send_signal(signal.SIGKILL)
    end = time.monotonic() + ENDED_S
    while _is_there(pid):
        assert time.monotonic() < end, "it outlived its starter"
        time.sleep(0.02)


def _is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and its new parent has not looked yet
