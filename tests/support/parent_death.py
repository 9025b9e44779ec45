"""End the processes of tests when the process that started them dies.

A test run that is killed cannot stop its services; the kernel stops them. Linux only: on other
systems the processes keep running.

I/O: one system call.
"""

import ctypes
import shutil
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_SETPRIV = shutil.which("setpriv") if sys.platform == "linux" else None

#: prefix of a command that ends when its parent dies; `setpriv` executes the command
MORTAL: tuple[str, ...] = (_SETPRIV, "--pdeathsig", "KILL") if _SETPRIV else ()


def end_with_parent() -> None:
    """End this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
