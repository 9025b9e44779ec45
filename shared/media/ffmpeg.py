"""FFmpeg: one command run to its end, inside bounds.

Arguments are a list, never a shell; input protocols are files and pipes alone, so a crafted
file cannot make ffmpeg open a URL; a run past its deadline is killed with its whole group, and
so is one that never stops talking. What it says is read to its end and only the end of it kept.

Units: deadlines in seconds. I/O: starts processes.
"""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from shared.errors import JobError, RetryableError, SettingsError
from shared.settings import FfmpegSettings
from shared.telemetry import trace

_TAIL_BYTES = 4096  # of stderr: enough for the reason, little enough for a log line
_KEPT_BYTES = 8 * 1024 * 1024  # of each pipe; the meter of six hours says 108 MB, its end matters
_FLOOD_BYTES = 512 * 1024 * 1024  # nothing that we ask for says as much
_READ_BYTES = 64 * 1024
_GONE_S = 5.0  # a killed process is gone at once, unless the kernel holds it in a read
_SAYS_NOTHING = re.compile(r"Conversion failed!|size= .* time=|\[.*muxing overhead")
#: exit codes that are of the machine, not of the media: no space left, no memory, no thread
_OF_THE_MACHINE = frozenset({256 - errno.ENOSPC, 256 - errno.ENOMEM, 256 - errno.EAGAIN})
#: put before every input: what a file's bytes may make ffmpeg touch
INPUT_GUARD = ("-protocol_whitelist", "file,pipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """Limits of what a run may write to each of its pipes."""

    kept_bytes: int = _KEPT_BYTES  #: the last bytes that are returned
    bytes_max: int = _FLOOD_BYTES  #: a run that writes more is killed


class FfmpegError(JobError):
    """FFmpeg ended with a fault, or did not end in time."""

    code = "ffmpeg_failed"

    def __init__(self, argv: Sequence[str], exit_code: int | None, stderr_tail: str) -> None:
        super().__init__(
            f"FFmpeg merge failed: {_why(exit_code, stderr_tail)}",
            retryable=exit_code is None or exit_code < 0 or exit_code in _OF_THE_MACHINE,
        )
        self.argv = tuple(argv)
        self.exit_code = exit_code  #: None: killed by us; below 0: minus somebody else's signal
        self.stderr_tail = stderr_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class FfmpegResult:
    """What a successful run left on its pipes."""

    stdout: bytes  #: its last 8 MiB
    stderr: str  #: as much


class Ffmpeg:
    """Runs one ffmpeg binary; `slots` at once, one per core by default."""

    def __init__(
        self,
        settings: FfmpegSettings,
        *,
        slots: int | None = None,
        output: OutputLimits = OutputLimits(),
    ) -> None:
        self.binary = find_binary(settings)
        self._timeout_s = settings.timeout_s
        self._output = output
        self._slots = asyncio.Semaphore(slots or os.cpu_count() or 1)

    async def run(
        self, args: Sequence[str | Path], *, media_s: float = 0.0, stdin: bytes | None = None
    ) -> FfmpegResult:
        """Run `ffmpeg <args>`; `media_s` of media lengthen the deadline.

        Raises:
            FfmpegError: it failed, or took longer than the timeout plus twice `media_s`.
            RetryableError: the machine starts no process now.
        """
        argv = [self.binary, "-hide_banner", "-nostdin", "-y", *map(str, args)]
        async with self._slots:
            with trace.span("ffmpeg", {"segue.media_s": media_s}):
                return await self._ended(argv, self._timeout_s + 2 * media_s, stdin)

    async def _ended(
        self, argv: Sequence[str], within_s: float, stdin: bytes | None
    ) -> FfmpegResult:
        process = await _started(argv, with_stdin=stdin is not None)
        try:
            async with asyncio.timeout(within_s):
                stdout, stderr = await _said(process, stdin, self._output)
        except TimeoutError as error:
            raise FfmpegError(argv, None, "") from error
        except _FloodError as error:
            raise FfmpegError(argv, None, str(error)) from error
        text = stderr.decode(errors="replace")
        if process.returncode != 0:
            raise FfmpegError(argv, process.returncode, text[-_TAIL_BYTES:])
        return FfmpegResult(stdout=stdout, stderr=text)

    async def version(self) -> str:
        """The version as the binary says it: `9.0.2`, or a build's own name."""
        result = await self.run(["-version"])
        found = re.search(rb"ffmpeg version (\S+)", result.stdout)
        return found.group(1).decode() if found else "unknown"


def find_binary(settings: FfmpegSettings) -> str:
    """The binary that `FFMPEG` names, else the one in the imageio-ffmpeg wheel.

    Raises:
        SettingsError: `FFMPEG` names nothing that can be run.
    """
    if settings.binary is None:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    found = shutil.which(settings.binary)
    if found is None:
        raise SettingsError("FFMPEG", f"no program at {settings.binary}")
    return found


class _FloodError(Exception):
    """It says more than any run says."""


async def _started(argv: Sequence[str], *, with_stdin: bool) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:  # no memory, no room for a process, or the program is being replaced
        raise RetryableError(f"ffmpeg cannot be started: {error.strerror}") from error


async def _said(
    process: asyncio.subprocess.Process, stdin: bytes | None, limits: OutputLimits
) -> tuple[bytes, bytes]:
    """What it left on its pipes, once it ended; however this ends, nothing of it runs on."""
    assert process.stdout is not None, "it was started with pipes"
    assert process.stderr is not None, "as above"
    reading = [
        asyncio.ensure_future(_read(process.stdout, limits)),
        asyncio.ensure_future(_read(process.stderr, limits)),
    ]
    try:
        await _fed(process, stdin)
        stdout, stderr = await asyncio.gather(*reading)
        await process.wait()
    except BaseException:  # its deadline, a lost lane, a flood: its children may outlive it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        # A full pipe nobody reads, or one that a child took out of the group, would stay open for
        # ever: asyncio lets go of them by its own hand alone.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - no other door
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GONE_S):
                await process.wait()
        raise
    return stdout, stderr


async def _fed(process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
    if process.stdin is None or stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit code says more
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


async def _read(pipe: asyncio.StreamReader, limits: OutputLimits) -> bytes:
    """The end of what it says."""
    kept: deque[bytes] = deque()
    kept_bytes, told_bytes = 0, 0
    while chunk := await pipe.read(_READ_BYTES):
        kept.append(chunk)
        kept_bytes, told_bytes = kept_bytes + len(chunk), told_bytes + len(chunk)
        while kept_bytes - len(kept[0]) >= limits.kept_bytes:
            kept_bytes -= len(kept.popleft())
        if told_bytes > limits.bytes_max:
            raise _FloodError(f"it does not stop talking, {told_bytes // 1024**2} MiB so far")
    return b"".join(kept)[-limits.kept_bytes :]


def _why(exit_code: int | None, stderr: str) -> str:
    """In FFmpeg's own words; whoever was killed has left none that say why."""
    if exit_code is not None and exit_code < 0:
        return f"it was ended by {_signal_name(-exit_code)}"
    if exit_code in _OF_THE_MACHINE:
        return os.strerror(256 - exit_code)
    told = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in told if not _SAYS_NOTHING.match(line)] or told
    how = "did not end in time" if exit_code is None else f"exit code {exit_code}"
    return lines[-1][:300] if lines else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
