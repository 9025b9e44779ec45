"""Starts Python programs by forking a process that has imported their modules already.

`python -m ops` spends about one second of CPU on imports, and a test run starts hundreds of
programs. A fork server per test process imports the modules once; each program is then forked in
about 30 ms. The program still is a process of its own: it has its own pid, session, environment,
working directory and file descriptors, and every signal (SIGKILL and SIGSTOP too) acts on it
alone. Its arguments in /proc are the server's.

`python -m tests.support.fork_server FD MODULE…` is the server; `start_forked` uses it.

I/O: processes, pipes.
"""

import asyncio
import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ops.__main__ import GROUPS
from tests.support.forked_sandbox import fork_sandbox_server
from tests.support.parent_death import MORTAL, end_with_parent

REPOSITORY = Path(__file__).parents[2]
PRELOADED = (
    "ops.__main__",
    *(module for commands in GROUPS.values() for module in commands.values()),
    *(
        f"services.{service}.{part}"
        for service in ("api", "generator", "merger", "muxer")
        for part in ("app", "settings")
    ),
    "services.generator.providers.replicate.provider",
    "services.generator.providers.synth.provider",
    "shared.storage.s3.store",
    "tests.faults.harness.dying_service",
)
_REQUEST_BYTES = 1 << 20
_START_S = 60.0  # 3 s on an idle machine


class ForkedProcess:
    """A program that the fork server started; use it as `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, status: int, stdout: int | None) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._stdout = stdout
        self._waiting = asyncio.Lock()
        self.stdout: asyncio.StreamReader | None = None

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if the program has ended.

        Raises:
            ProcessLookupError: the program has ended and `wait` has returned.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal's number."""
        async with self._waiting:
            if self.returncode is None:
                self.returncode = int(await _read_line(self._status))
                os.close(self._status)
        return self.returncode

    async def communicate(self) -> tuple[bytes, None]:
        """Read standard output to its end, wait for the program, return the output."""
        assert self.stdout is not None, "started with capture"
        output = await self.stdout.read()
        await self.wait()
        return output, None

    async def open_output(self) -> None:
        """Connect `stdout` to the pipe."""
        if self._stdout is not None:
            self.stdout = asyncio.StreamReader(limit=_REQUEST_BYTES)
            protocol = asyncio.StreamReaderProtocol(self.stdout)
            pipe = os.fdopen(self._stdout, "rb", buffering=0)
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)


async def start_forked(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    output: int | None = None,
    merge_stderr: bool = False,
    forks_sandbox: bool = False,
) -> ForkedProcess:
    """Start `python -m module arguments…` in the repository.

    `output` is a file descriptor for standard output and error; None: standard output is
    captured (`stdout`), standard error too with `merge_stderr`, otherwise it is inherited.
    With `forks_sandbox` the server of its sandbox is forked too.
    """
    status, status_end = os.pipe()
    captured: int | None = None
    if output is None:
        captured, target = os.pipe()
        error = target if merge_stderr else sys.stderr.fileno()
    else:
        target = error = output
    request = {
        "module": module,
        "arguments": arguments,
        "environment": dict(environment),
        "forks_sandbox": forks_sandbox,
    }
    _server().request(request, [target, error, status_end])
    os.close(status_end)
    if output is None:
        os.close(target)
    async with asyncio.timeout(_START_S):
        pid = int(await _read_line(status))
    process = ForkedProcess(pid, status, captured)
    await process.open_output()
    return process


async def _read_line(descriptor: int) -> bytes:
    """Read one line of a pipe; the server writes each at once.

    Raises:
        EOFError: the server has ended.
    """
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def report() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(descriptor, report)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)
    text = b""
    while not text.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            raise EOFError("the fork server has ended")
        text += byte
    return text


class ForkServer:
    """The server process of this test process."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDONLY)
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [
                    *MORTAL,
                    sys.executable,
                    *("-m", "tests.support.fork_server", str(other.fileno()), *PRELOADED),
                ],
                cwd=REPOSITORY,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},  # noqa: TID251 - the server's
            )

    def request(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Send a request with its descriptors: standard output, standard error, status."""
        data = json.dumps(request).encode()
        assert len(data) < _REQUEST_BYTES, "one packet"
        socket.send_fds(self._control, [data], [self._null, *descriptors])

    def stop(self) -> None:
        """End the server; programs that still run end with it."""
        self._control.close()
        os.close(self._null)
        self._process.wait(_START_S)


@cache
def _server() -> ForkServer:
    return ForkServer()


def stop_fork_server() -> None:
    """End the fork server of this process, if it was started."""
    if _server.cache_info().currsize:
        _server().stop()
        _server.cache_clear()


@dataclass(slots=True)
class _Server:
    """The loop of the server: forks on request, reports pids and exit codes."""

    control: socket.socket
    children: dict[int, int] = field(default_factory=dict)  #: pid to the pipe for its status

    def run(self) -> tuple[dict[str, Any], list[int]] | None:
        """Serve; return in the child with its request, in the server with None at the end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup, wakeup_end = os.pipe()
        for descriptor in (wakeup, wakeup_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if wakeup in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, _REQUEST_BYTES)
                    self._reap()
                if self.control in ready:
                    data, descriptors, *_ = socket.recv_fds(self.control, _REQUEST_BYTES, 4)
                    if not data:
                        return None
                    if (pid := os.fork()) == 0:
                        self._leave(wakeup, wakeup_end, descriptors[3])
                        return json.loads(data), descriptors[:3]
                    *standard, self.children[pid] = descriptors
                    _report(self.children[pid], pid)
                    for descriptor in standard:
                        os.close(descriptor)

    def _leave(self, *descriptors: int) -> None:
        """In the child: undo what the server set up."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.control.close()
        for descriptor in (*descriptors, *self.children.values()):
            os.close(descriptor)

    def _reap(self) -> None:
        """Report every child that has ended."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (pipe := self.children.pop(pid, None)) is not None:
                _report(pipe, os.waitstatus_to_exitcode(status))
                os.close(pipe)


def _report(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test has ended
        os.write(pipe, f"{number}\n".encode())


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """In the child: take the program's session, descriptors, environment and arguments."""
    os.setsid()
    end_with_parent()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()  # noqa: TID251 - this is where a program's environment is made
    os.environ.update(request["environment"])  # noqa: TID251 - as above
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the program's own
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as above
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - as above
    sys.argv = [request["module"], *request["arguments"]]
    warnings.simplefilter("ignore")
    if request["forks_sandbox"]:
        fork_sandbox_server()


def main(descriptor: str, *modules: str) -> None:
    """Import the modules, serve requests; in a child, run the program."""
    for module in modules:
        import_module(module)
        if module.endswith("__main__"):
            del sys.modules[module]  # it runs as `__main__`
    gc.freeze()  # what is imported is never collected, so children share its pages
    served = _Server(socket.socket(fileno=int(descriptor))).run()
    if served is not None:
        request, descriptors = served
        _become(request, descriptors)
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
