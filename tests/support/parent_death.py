"""Mortal: processes of tests that do not outlive whoever started them.

A test run that is killed can end nothing any more: its services would go on for ever, asking
for servers that are gone. The kernel ends them instead. Linux alone can do that; elsewhere they
are as they were.

I/O: one system call.
"""

import ctypes
import shutil
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_SETPRIV = shutil.which("setpriv") if sys.platform == "linux" else None

#: what stands before a command that is to end with its starter; it becomes that command
MORTAL: tuple[str, ...] = (_SETPRIV, "--pdeathsig", "KILL") if _SETPRIV else ()


def end_with_parent() -> None:
    """From here on, this process ends when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
