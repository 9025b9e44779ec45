"""Warden: runs one server as its child and ends it when whoever started the warden is gone.

The starter holds the other end of the warden's standard input. When that closes, because the
starter stopped the server or died itself (of SIGKILL too), the warden sends the stop signal, and
after the grace SIGKILL. It is started in a session of its own, so a Ctrl-C in the terminal does
not reach the server before those who still use it.

Units: seconds. I/O: one child process. It is run as a file, by `embedded/servers/process.py`,
and imports the standard library alone, so that it costs little.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

_READ_BYTES = 512


def main(stop_signal: int, grace_s: float, argv: list[str]) -> int:
    """Run `argv` until it ends or our standard input does; its exit code, as a shell says it."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)  # noqa: S603 - our caller's own list

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, stop_signal)
        killer = threading.Timer(grace_s, child.kill)
        killer.daemon = True
        killer.start()

    def wait_for_the_end_of_input() -> None:
        while os.read(sys.stdin.fileno(), _READ_BYTES):
            pass
        stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    threading.Thread(target=wait_for_the_end_of_input, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # _exit: the reading thread may still hold standard input, and there is nothing to tidy
    os._exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
