"""The fork server of the sandbox: `python -m shared.media.sandbox.server DESCRIPTOR`.

It has one thread, imports the modules of the calls once, and forks a child per call, which takes
a few milliseconds. The child limits itself before it reads anything, runs the function, writes
the result to its connection and exits. The server kills a child whose caller closed the
connection, appends the exit status to the connection of every child that ended, and ends with its
caller, whose death closes the control socket.

I/O: processes, sockets; children read local files.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from shared.errors import JobError
from shared.media.sandbox.codec import BinaryParts, from_plain, hints_of, to_plain

REQUEST_BYTES_MAX = 64 * 1024  # names and paths
LENGTH_BYTES = 8  #: before a JSON part
STATUS_BYTES = 4  #: after everything: the exit code, or minus the signal
_READ_BYTES = 1024 * 1024
_FILES_MAX = 64
_TRACE_CHARS = 4000


@dataclass(slots=True)
class _Server:
    """The loop of the server: forks on request, kills and reaps."""

    control: socket.socket
    children: dict[int, socket.socket] = field(default_factory=dict)  #: pid to its connection
    poll: "select.poll" = field(default_factory=select.poll)

    def run(self) -> tuple[dict[str, Any], socket.socket] | None:
        """Serve; return in a child with its request, in the server with None at the end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup, wakeup_end = os.pipe()
        for descriptor in (wakeup, wakeup_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        self.poll.register(wakeup, select.POLLIN)
        self.poll.register(self.control, select.POLLIN)
        while True:
            events = dict(self.poll.poll())
            if wakeup in events:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, _READ_BYTES)
                self._reap()
            self._kill_abandoned(events)
            if self.control.fileno() in events:
                request = self._receive()
                if request is None:
                    self._kill_all()
                    return None
                pid = os.fork()
                if pid == 0:
                    self._leave(wakeup, wakeup_end)
                    return request
                self.children[pid] = request[1]
                self.poll.register(request[1], 0)  # a hang-up is always reported

    def _receive(self) -> tuple[dict[str, Any], socket.socket] | None:
        """Return the next request and its connection, its module imported; None at the end."""
        data, descriptors, *_ = socket.recv_fds(self.control, REQUEST_BYTES_MAX, 1)
        if not data or not descriptors:
            return None
        request = json.loads(data)
        import_module(request["module"])
        return request, socket.socket(fileno=descriptors[0])

    def _kill_abandoned(self, events: dict[int, int]) -> None:
        """Kill the children whose caller no longer waits."""
        for pid, connection in self.children.items():
            if connection.fileno() in events:
                self.poll.unregister(connection)
                os.kill(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        self._reap(options=0)

    def _reap(self, *, options: int = os.WNOHANG) -> None:
        """Report the exit status of every child that has ended."""
        while self.children:
            pid, status = os.waitpid(-1, options)
            if not pid:
                return
            connection = self.children.pop(pid)
            with contextlib.suppress(KeyError):
                self.poll.unregister(connection)
            with connection, contextlib.suppress(OSError):  # the caller has ended
                connection.setblocking(False)
                code = os.waitstatus_to_exitcode(status)
                connection.sendall(code.to_bytes(STATUS_BYTES, "big", signed=True))

    def _leave(self, *descriptors: int) -> None:
        """In the child: undo what the server set up."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.control.close()
        for connection in self.children.values():
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)


def _limit(limits: dict[str, int]) -> None:
    """In the child: limit this process; the limits cannot be raised again."""
    with contextlib.suppress(OSError):  # if the machine has no memory left, this process ends first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(FileNotFoundError):  # not Linux: the kernel would not enforce it
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        memory = pages * resource.getpagesize() + limits["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES_MAX, _FILES_MAX))


def _respond(request: dict[str, Any], connection: socket.socket) -> None:
    """In the child: run the call and write its response."""
    _limit(request["limits"])
    parts: list[bytes | memoryview] = []
    try:
        response = {"result": to_plain(_call(request, connection), parts)}
    except MemoryError:
        response, parts = {"memory": True}, []
    except JobError as error:
        if isinstance(error.__cause__, MemoryError):
            response, parts = {"memory": True}, []
        else:
            response = {
                "error": type(error).__name__,
                "reason": error.reason,
                "code": error.code,
                "retryable": error.retryable,
            }
    except OSError as error:
        response = {"errno": error.errno or 0, "strerror": error.strerror or str(error)}
    except BaseException:  # noqa: BLE001 - the caller raises it with its traceback
        response = {"fault": traceback.format_exc()[-_TRACE_CHARS:]}
    connection.setblocking(True)
    send_message(connection, response, parts)


def _call(request: dict[str, Any], connection: socket.socket) -> Any:
    function = getattr(sys.modules[request["module"]], request["name"])
    hints = hints_of(function)
    parts = BinaryParts(_read_exactly(connection, request["binary_bytes"]))
    names = [*function.__code__.co_varnames[: len(request["args"])], *request["kwargs"]]
    values = [*request["args"], *request["kwargs"].values()]
    arguments = {
        name: from_plain(hints[name], value, parts)
        for name, value in zip(names, values, strict=True)
    }
    return function(**arguments)


def _read_exactly(connection: socket.socket, size_bytes: int) -> bytearray:
    data = bytearray(size_bytes)
    view, at = memoryview(data), 0
    while at < size_bytes:
        count = connection.recv_into(view[at:], min(_READ_BYTES, size_bytes - at))
        if not count:
            raise ConnectionError("the caller has ended")
        at += count
    return data


def send_message(
    connection: socket.socket, response: dict[str, Any], parts: Sequence[bytes | memoryview]
) -> None:
    """Write a response: the length of its JSON, the JSON, and the binary parts."""
    text = json.dumps(response).encode()
    connection.sendall(len(text).to_bytes(LENGTH_BYTES, "big") + text)
    for part in parts:
        connection.sendall(part)


def main(descriptor: str) -> None:
    """Serve requests; in a child, respond to one and exit."""
    gc.freeze()  # what is imported is never collected, so children share its pages
    child = _Server(socket.socket(fileno=int(descriptor))).run()
    if child is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            _respond(*child)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
