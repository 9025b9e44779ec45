"""Runs ffmpeg commands with limits on time and output.

Arguments are a list, never a shell command. Inputs may use the file and pipe protocols only, so a
crafted file cannot make ffmpeg open a URL. A run past its deadline, or with too much output, is
killed with its process group. Its memory, processor time and files are limited as well, by the
kernel. Output is read completely; only its end is kept.

Units: deadlines in seconds. I/O: starts processes.
"""

import asyncio
import contextlib
import errno
import math
import os
import re
import resource
import shutil
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from shared.errors import JobError, RetryableError, SettingsError
from shared.media.paths import media_path
from shared.settings import FfmpegSettings
from shared.telemetry import trace

_TAIL_BYTES = 4096  # of stderr: enough for the reason, little enough for a log line
#: of each pipe; the loudness meter writes 108 MB for six hours, and its end matters
_KEPT_BYTES = 8 * 1024 * 1024
_OUTPUT_BYTES_MAX = 512 * 1024 * 1024  # more than any of our commands writes
_FILE_BYTES_MAX = 16 * 1024**3  # more than the largest track
_READ_BYTES = 64 * 1024
_EXIT_S = 5.0  # a killed process exits at once, unless it is in an uninterruptible read
_NO_REASON = re.compile(r"Conversion failed!|size= .* time=|\[.*muxing overhead")
#: exit codes caused by the machine, not the media: no space left, no memory, no thread
_MACHINE_EXIT_CODES = frozenset({256 - errno.ENOSPC, 256 - errno.ENOMEM, 256 - errno.EAGAIN})
#: precedes every input: the protocols that its contents may use
INPUT_GUARD = ("-protocol_whitelist", "file,pipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """Limits of what a run may write to each of its pipes."""

    kept_bytes: int = _KEPT_BYTES  #: the last bytes that are returned
    bytes_max: int = _OUTPUT_BYTES_MAX  #: a run that writes more is killed


class FfmpegError(JobError):
    """FFmpeg failed or timed out."""

    code = "ffmpeg_failed"

    def __init__(self, argv: Sequence[str], exit_code: int | None, stderr_tail: str) -> None:
        super().__init__(
            f"FFmpeg merge failed: {_failure_reason(exit_code, stderr_tail)}",
            retryable=exit_code is None or exit_code < 0 or exit_code in _MACHINE_EXIT_CODES,
        )
        self.argv = tuple(argv)
        #: None: killed by this module; negative: minus the signal that killed it
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class FfmpegResult:
    """The output of a successful run."""

    stdout: bytes  #: the last 8 MiB
    stderr: str  #: the last 8 MiB


class Ffmpeg:
    """Runs one ffmpeg binary, up to `slots` processes at once (default: one per core)."""

    def __init__(
        self,
        settings: FfmpegSettings,
        *,
        slots: int | None = None,
        output: OutputLimits = OutputLimits(),
    ) -> None:
        self.binary = find_binary(settings)
        self._timeout_s = settings.timeout_s
        self._memory_bytes_max = settings.memory_bytes_max
        self._output = output
        self._slots = asyncio.Semaphore(slots or os.cpu_count() or 1)

    async def run(
        self,
        args: Sequence[str | Path],
        *,
        media_s: float = 0.0,
        stdin: bytes | None = None,
        file_bytes_max: int = _FILE_BYTES_MAX,
    ) -> FfmpegResult:
        """Run `ffmpeg <args>` and return its output; `media_s` extends the deadline.

        `file_bytes_max` limits every file that it writes.

        A `Path` is always a file, whatever its name.

        Raises:
            FfmpegError: it failed, or exceeded the timeout plus twice `media_s`.
            RetryableError: the process could not be started.
        """
        words = [media_path(arg) if isinstance(arg, Path) else arg for arg in args]
        argv = [self.binary, "-hide_banner", "-nostdin", "-y", *words]
        async with self._slots:
            with trace.span("ffmpeg", {"segue.media_s": media_s}):
                within_s = self._timeout_s + 2 * media_s
                cpu_s = math.ceil(within_s * (os.cpu_count() or 1)) + 1
                limits = {
                    resource.RLIMIT_DATA: self._memory_bytes_max,
                    resource.RLIMIT_CPU: cpu_s,
                    resource.RLIMIT_FSIZE: file_bytes_max,
                    resource.RLIMIT_CORE: 0,
                }
                return await self._run_process(argv, within_s, stdin, limits)

    async def _run_process(
        self,
        argv: Sequence[str],
        within_s: float,
        stdin: bytes | None,
        limits: Mapping[int, int],
    ) -> FfmpegResult:
        process = await _start(argv, with_stdin=stdin is not None)
        _limit(process.pid, limits)
        try:
            async with asyncio.timeout(within_s):
                stdout, stderr = await _communicate(process, stdin, self._output)
        except TimeoutError as error:
            raise FfmpegError(argv, None, "") from error
        except _OutputLimitError as error:
            raise FfmpegError(argv, None, str(error)) from error
        text = stderr.decode(errors="replace")
        if process.returncode != 0:
            raise FfmpegError(argv, process.returncode, text[-_TAIL_BYTES:])
        return FfmpegResult(stdout=stdout, stderr=text)

    async def version(self) -> str:
        """Return the version that the binary reports: `9.0.2`, or a build name."""
        result = await self.run(["-version"])
        match = re.search(rb"ffmpeg version (\S+)", result.stdout)
        return match.group(1).decode() if match else "unknown"


def find_binary(settings: FfmpegSettings) -> str:
    """Return the binary that `FFMPEG` names, else the one of the imageio-ffmpeg wheel.

    Raises:
        SettingsError: `FFMPEG` is not an executable.
    """
    if settings.binary is None:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    path = shutil.which(settings.binary)
    if path is None:
        raise SettingsError("FFMPEG", f"no program at {settings.binary}")
    return path


class _OutputLimitError(Exception):
    """The process wrote more than any valid run."""


async def _start(argv: Sequence[str], *, with_stdin: bool) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:  # no memory, process limit reached, or the program is being replaced
        raise RetryableError(f"ffmpeg cannot be started: {error.strerror}") from error


def _limit(pid: int, limits: Mapping[int, int]) -> None:
    """Limit a process that has just started; it has read nothing yet."""
    set_limit = getattr(resource, "prlimit", None)  # Linux
    if set_limit is None:
        return
    for kind, value in limits.items():
        with contextlib.suppress(OSError, ValueError):  # it has ended, or has a lower limit
            set_limit(pid, kind, (value, value))


async def _communicate(
    process: asyncio.subprocess.Process, stdin: bytes | None, limits: OutputLimits
) -> tuple[bytes, bytes]:
    """Return stdout and stderr at the end of the process; it never outlives this call."""
    assert process.stdout is not None, "started with pipes"
    assert process.stderr is not None, "started with pipes"
    readers = [
        asyncio.ensure_future(_read(process.stdout, limits)),
        asyncio.ensure_future(_read(process.stderr, limits)),
    ]
    try:
        await _write_input(process, stdin)
        stdout, stderr = await asyncio.gather(*readers)
        await process.wait()
    except BaseException:  # timeout, cancelled lane or output limit: its children may outlive it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        # A full pipe without a reader, or one held by a child outside the group, would stay open:
        # only the transport closes it.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - no public API
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                await process.wait()
        raise
    return stdout, stderr


async def _write_input(process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
    if process.stdin is None or stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the exit code has the reason
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


async def _read(pipe: asyncio.StreamReader, limits: OutputLimits) -> bytes:
    """Return the end of the pipe's output."""
    kept: deque[bytes] = deque()
    kept_bytes, read_bytes = 0, 0
    while chunk := await pipe.read(_READ_BYTES):
        kept.append(chunk)
        kept_bytes, read_bytes = kept_bytes + len(chunk), read_bytes + len(chunk)
        while kept_bytes - len(kept[0]) >= limits.kept_bytes:
            kept_bytes -= len(kept.popleft())
        if read_bytes > limits.bytes_max:
            raise _OutputLimitError(f"wrote more than {limits.bytes_max // 1024**2} MiB")
    return b"".join(kept)[-limits.kept_bytes :]


def _failure_reason(exit_code: int | None, stderr: str) -> str:
    """Return the reason of a failure: the signal, or FFmpeg's last message."""
    if exit_code is not None and exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    if exit_code in _MACHINE_EXIT_CODES:
        return os.strerror(256 - exit_code)
    output = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in output if not _NO_REASON.match(line)] or output
    status = "timed out" if exit_code is None else f"exit code {exit_code}"
    return lines[-1][:300] if lines else status


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
