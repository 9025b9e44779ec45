"""The sandbox of a forked program: its server is forked, instead of started and importing.

The server of `shared/media/sandbox` spends half a second of CPU on imports, and a test run starts
hundreds of services that read media. `fork_sandbox_server` forks it while the program has one
thread and no connection. It runs the same code, in its own process and session, as a child of the
program, without the program's environment. If it ends, the program starts the next one as always.

Its memory contains what the fork server imported: a test that measures the memory of the children
uses a service that starts its own (`Service.forks_sandbox`).

I/O: processes, sockets.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from typing_extensions import override

from shared.media import sandbox
from shared.media.sandbox import server

NAME = "media-sandbox"  #: in /proc/*/comm; the command line is that of the fork server
_POLL_S = 0.005


def fork_sandbox_server() -> None:
    """Fork the server of this program's sandbox; call it before the program starts a thread."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _serve(theirs)
    theirs.close()
    sandbox._SERVER._process = _ForkedServer(ours, pid)


def is_sandbox_server(pid: int) -> bool:
    """Return whether a process is the server of a sandbox, or a child of a forked one.

    Raises:
        FileNotFoundError: it has ended.
    """
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return server.__name__.encode() in command or name == NAME


def _serve(control: socket.socket) -> None:
    """In the child: become the server; does not return."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for target in range(3):
            os.dup2(null, target)
        os.closerange(3, control.fileno())
        os.closerange(control.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        Path("/proc/self/comm").write_text(NAME, encoding="utf-8")
        environment = sandbox._environment()
        os.environ.clear()  # noqa: TID251 - of the new process
        os.environ.update(environment)  # noqa: TID251 - as above
        server.main(str(control.detach()))
    finally:
        os._exit(0)


class _ForkedServer(sandbox._ServerProcess):
    """A server that was forked, in place of one that is started."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.owner = os.getpid()
        self._control = control
        self._pid = pid

    @override
    def stop(self) -> None:
        self._control.close()
        end = time.monotonic() + sandbox._STOP_S
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self._pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(NAME, sandbox._STOP_S)
            time.sleep(_POLL_S)
