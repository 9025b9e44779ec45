"""FFmpeg: one command run to its end, inside bounds.

Arguments are a list, never a shell; input protocols are files and pipes alone, so a crafted
file cannot make ffmpeg open a URL; a run past its deadline is killed with its whole group.

Units: deadlines in seconds. I/O: starts processes.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from shared.errors import JobError, SettingsError
from shared.settings import FfmpegSettings

_TAIL_BYTES = 4096  # of stderr: enough for the reason, little enough for a log line
_STDOUT_BYTES_MAX = 64 * 1024 * 1024
#: put before every input: what a file's bytes may make ffmpeg touch
INPUT_GUARD = ("-protocol_whitelist", "file,pipe")


class FfmpegError(JobError):
    """FFmpeg ended with a fault, or did not end in time."""

    code = "ffmpeg_failed"

    def __init__(self, argv: Sequence[str], exit_code: int | None, stderr_tail: str) -> None:
        last = _last_line(stderr_tail)
        how = "did not end in time" if exit_code is None else f"exit code {exit_code}"
        super().__init__(f"FFmpeg merge failed: {last or how}", retryable=exit_code is None)
        self.argv = tuple(argv)
        self.exit_code = exit_code  #: None: killed at the deadline
        self.stderr_tail = stderr_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class FfmpegResult:
    """What a successful run left on its pipes."""

    stdout: bytes
    stderr: str


class Ffmpeg:
    """Runs one ffmpeg binary; `slots` at once, one per core by default."""

    def __init__(self, settings: FfmpegSettings, *, slots: int | None = None) -> None:
        self.binary = find_binary(settings)
        self._timeout_s = settings.timeout_s
        self._slots = asyncio.Semaphore(slots or os.cpu_count() or 1)

    async def run(
        self, args: Sequence[str | Path], *, media_s: float = 0.0, stdin: bytes | None = None
    ) -> FfmpegResult:
        """Run `ffmpeg <args>`; `media_s` of media lengthen the deadline.

        Raises:
            FfmpegError: it failed, or took longer than the timeout plus twice `media_s`.
        """
        argv = [self.binary, "-hide_banner", "-nostdin", "-y", *map(str, args)]
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=_STDOUT_BYTES_MAX,
            )
            try:
                async with asyncio.timeout(self._timeout_s + 2 * media_s):
                    stdout, stderr = await process.communicate(stdin)
            except TimeoutError as error:
                raise FfmpegError(argv, None, "") from error
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
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


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
