"""Runs functions that read untrusted media in child processes with limits.

A small file can claim or unpack to almost anything, and FFmpeg's libraries allocate before they
read. So every call gets a child of its own, with limits on memory, processor time, time and
output, and without this process's environment. A child over a limit is killed, and so is the
child of a cancelled call: no thread and no process continues. See ADR-0024.

The children are forked by a server (`server.py`), one per process, started by the first call.

Units: bytes, seconds. I/O: processes, sockets.
"""

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from shared.errors import JobError, MediaError, RetryableError
from shared.media.sandbox.codec import BinaryParts, from_plain, hints_of, to_plain
from shared.media.sandbox.server import LENGTH_BYTES, REQUEST_BYTES_MAX, STATUS_BYTES
from shared.media.video_container import CONVERT
from shared.processing.slots import Slots
from shared.settings import MediaSettings
from shared.telemetry import trace

P = ParamSpec("P")
T = TypeVar("T")

_READ_BYTES = 1024 * 1024
_MIB = 1024 * 1024
_SLOW_BYTES_PER_S = 16 * _MIB  # every byte is read at least so fast, by the slowest machine
_OUTPUT_BYTES_MAX = 64 * _MIB  # three minutes of sound
_COPIES = 3  # of a result, in the memory of the child that makes it
_WALL_PER_CPU = 4  # the machine may be busy with other work
_STOP_S = 5.0
_REASON_CHARS_MAX = 2000
_ADVICE = f"it is damaged, or not an ordinary file; convert it: {CONVERT}"


class MediaSandbox:
    """Calls functions in limited child processes, `settings.slots` at once."""

    def __init__(self, settings: MediaSettings, *, slots: Slots | None = None) -> None:
        self._settings = settings
        self._output_bytes_max = _OUTPUT_BYTES_MAX
        self.slots = slots or Slots(settings.slots)

    def returning(self, output_bytes_max: int) -> "MediaSandbox":
        """Return a sandbox on the same slots, for calls that return more than 64 MiB."""
        more = max(0, output_bytes_max - _OUTPUT_BYTES_MAX)
        memory_bytes_max = self._settings.memory_bytes_max + _COPIES * more
        settings = self._settings.model_copy(update={"memory_bytes_max": memory_bytes_max})
        return _Larger(settings, slots=self.slots, output_bytes_max=_OUTPUT_BYTES_MAX + more)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `call(*args, **kwargs)`, run in a child; types as in `codec`.

        `call` is a function of a module, and its result at most 64 MiB. Larger files get more time.

        Raises:
            JobError: as raised by `call`.
            MediaError: the child exceeded a limit or crashed; the message is for users.
            RetryableError: the child could not be started.
        """
        parts: list[bytes | memoryview] = []
        size_bytes = sum(_size_of(value) for value in (*args, *kwargs.values()))
        cpu_s = self._settings.cpu_s + size_bytes / _SLOW_BYTES_PER_S
        request = {
            "module": call.__module__,
            "name": call.__qualname__,
            "args": [to_plain(value, parts) for value in args],
            "kwargs": {name: to_plain(value, parts) for name, value in kwargs.items()},
            "binary_bytes": sum(len(part) for part in parts),
            "limits": {"memory_bytes": self._settings.memory_bytes_max, "cpu_s": round(cpu_s) or 1},
        }
        async with self.slots:
            with trace.span("read media", {"segue.call": call.__qualname__}):
                answer = await self._exchange(request, parts, within_s=_WALL_PER_CPU * cpu_s)
        return _result(call, answer, self._settings)

    async def _exchange(
        self, request: dict[str, Any], parts: Sequence[bytes | memoryview], *, within_s: float
    ) -> bytearray:
        """Return everything that the child and the server wrote."""
        connection = _server().start(request)
        reader, writer = await asyncio.open_connection(sock=connection, limit=_READ_BYTES)
        try:
            async with asyncio.timeout(within_s):
                with contextlib.suppress(ConnectionError):  # the exit status has the reason
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                return await self._read(reader)
        except TimeoutError as error:
            raise MediaError(
                f"the file takes longer than {within_s:.0f} s to read: {_ADVICE}",
                code="media_limit",
                retryable=True,
            ) from error
        finally:
            writer.transport.abort()  # the server kills the child if it still runs

    async def _read(self, reader: asyncio.StreamReader) -> bytearray:
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_READ_BYTES):
                answer += chunk
                if len(answer) > self._output_bytes_max + _MIB:
                    raise _over_memory(self._settings)
        return answer


class _Larger(MediaSandbox):
    """A sandbox whose results may be larger."""

    def __init__(self, settings: MediaSettings, *, slots: Slots, output_bytes_max: int) -> None:
        super().__init__(settings, slots=slots)
        self._output_bytes_max = output_bytes_max


def _size_of(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Path):
        with contextlib.suppress(OSError):
            return value.stat().st_size
    return 0


def _result(call: Callable[..., T], answer: bytearray, settings: MediaSettings) -> T:
    """Return the result in the child's answer, or raise its error."""
    if len(answer) < STATUS_BYTES:
        raise RetryableError("the process that reads media ended; it is started again")
    status = int.from_bytes(answer[-STATUS_BYTES:], "big", signed=True)
    del answer[-STATUS_BYTES:]
    if status != 0:
        _raise_ended(status, settings)
    length = int.from_bytes(answer[:LENGTH_BYTES], "big")
    if length > _MIB:
        raise _over_memory(settings)
    response = json.loads(answer[LENGTH_BYTES : LENGTH_BYTES + length])
    if "result" not in response:
        _raise_error(call, response, settings)
    parts = BinaryParts(answer[LENGTH_BYTES + length :])
    value: T = from_plain(hints_of(call)["return"], response["result"], parts)
    return value


def _raise_ended(status: int, settings: MediaSettings) -> NoReturn:
    """Raise the error of a child that was killed."""
    if status == -signal.SIGXCPU:
        raise MediaError(
            f"the file takes more than {settings.cpu_s:g} s of processor time to read: {_ADVICE}",
            code="media_limit",
        )
    if status == -signal.SIGKILL:  # by the kernel: no memory left
        raise _over_memory(settings)
    raise MediaError(f"the file makes its reader crash ({status}): {_ADVICE}", code="media_limit")


def _raise_error(
    call: Callable[..., Any], response: dict[str, Any], settings: MediaSettings
) -> NoReturn:
    """Raise the error that the call raised."""
    if "memory" in response:
        raise _over_memory(settings)
    if "errno" in response:
        raise OSError(response["errno"], response["strerror"])
    if "error" in response:
        kind = getattr(sys.modules[call.__module__], response["error"], MediaError)
        if not (isinstance(kind, type) and issubclass(kind, JobError)):
            kind = MediaError
        error = kind.__new__(kind)  # its own constructor may take other arguments
        JobError.__init__(
            error,
            str(response["reason"])[:_REASON_CHARS_MAX],
            code=str(response["code"]),
            retryable=bool(response["retryable"]),
        )
        raise error
    raise RuntimeError(f"{call.__qualname__} failed in the child process:\n{response.get('fault')}")


def _over_memory(settings: MediaSettings) -> MediaError:
    return MediaError(
        f"the file needs more than {settings.memory_bytes_max // _MIB} MiB of memory to read: "
        f"{_ADVICE}",
        code="media_limit",
    )


class _ServerProcess:
    """The fork server of this process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._control, other = socket.socketpair()
        with other:
            argv = ["-P", "-m", "shared.media.sandbox.server", str(other.fileno())]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, *argv],
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=_environment(),
                )
            except OSError as error:  # no memory, or the process limit is reached
                self._control.close()
                raise RetryableError(
                    f"the process that reads media cannot be started: {error.strerror}"
                ) from error

    def start(self, request: dict[str, Any]) -> socket.socket:
        """Start a child; return the connection to it.

        Raises:
            OSError: the server has ended.
        """
        data = json.dumps(request).encode()
        assert len(data) <= REQUEST_BYTES_MAX, "one message"
        connection, other = socket.socketpair()
        try:
            with other:
                socket.send_fds(self._control, [data], [other.fileno()])
        except OSError:
            connection.close()
            raise
        connection.setblocking(False)
        return connection

    def stop(self) -> None:
        """End the server and its children."""
        self._control.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)


class _Server:
    """Starts the fork server when it is needed, and again after it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _ServerProcess | None = None

    def start(self, request: dict[str, Any]) -> socket.socket:
        """Start a child; return the connection to it.

        Raises:
            RetryableError: the server could not be started.
        """
        with self._lock:
            if self._process is not None and self._process.owner == os.getpid():
                try:
                    return self._process.start(request)
                except OSError:
                    self._process.stop()
            self._process = _ServerProcess()
            try:
                return self._process.start(request)
            except OSError as error:
                raise RetryableError(f"the process that reads media ended: {error}") from error

    def stop(self) -> None:
        """End the server of this process, if there is one."""
        with self._lock:
            if self._process is not None and self._process.owner == os.getpid():
                self._process.stop()
            self._process = None


_SERVER = _Server()
atexit.register(_SERVER.stop)


def _server() -> _Server:
    return _SERVER


def _environment() -> dict[str, str]:
    """Return the environment of the server: no secret of this process."""
    kept = {name: value for name in ("PATH", "LANG", "TMPDIR") if (value := os.environ.get(name))}  # noqa: TID251 - of a child process
    root = str(Path(__file__).resolve().parents[3])
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {**kept, **threads, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
