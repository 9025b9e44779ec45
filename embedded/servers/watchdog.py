"""Runs one server, and stops it when the watchdog's starter has ended.

The starter holds the other end of the watchdog's standard input. When that closes, because the
starter stopped the server or was killed (by SIGKILL too), the watchdog sends the stop signal, and
SIGKILL after the grace period. It runs in its own session, so that a Ctrl-C in the terminal does
not reach the server before its clients.

If the watchdog itself is killed, the kernel sends the server the stop signal (Linux).

Units: seconds. I/O: one child process. `embedded/servers/process.py` runs it as a file; it imports
only the standard library, so that it starts fast.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_READ_BYTES = 512
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(stop_signal: int, grace_s: float, argv: list[str]) -> int:
    """Run `argv` until it or standard input ends; return its exit code."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def end_with_this_process() -> None:
        if prctl is not None:
            prctl(_SET_PARENT_DEATH_SIGNAL, stop_signal)

    child = subprocess.Popen(  # noqa: S603 - the caller's arguments
        argv,
        stdin=subprocess.DEVNULL,
        preexec_fn=end_with_this_process,  # noqa: PLW1509 - no thread runs yet
    )

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, stop_signal)
        killer = threading.Timer(grace_s, child.kill)
        killer.daemon = True
        killer.start()

    def wait_for_end_of_input() -> None:
        while os.read(sys.stdin.fileno(), _READ_BYTES):
            pass
        stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # _exit: the reading thread may still hold standard input
    os._exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
