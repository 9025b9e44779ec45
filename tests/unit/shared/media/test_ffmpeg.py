"""FFmpeg runs within limits; a failure has its exit code and message."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import JobError, RetryableError, SettingsError
from shared.media.ffmpeg import INPUT_GUARD, Ffmpeg, FfmpegError, OutputLimits, find_binary
from shared.media.samples import silence
from shared.settings import FfmpegSettings
from tests.support.audio_builders import mp3

TONE = ("-f", "lavfi", "-i", "sine=d=0.1", "-f", "s16le")


def a_program(folder: Path, script: str) -> FfmpegSettings:
    """Return settings whose ffmpeg is a shell script, for rare behaviour."""
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return FfmpegSettings(binary=str(path), timeout_s=0.3)


async def test_run_returns_stdout() -> None:
    """0.1 s of 44.1 kHz mono."""
    result = await Ffmpeg(FfmpegSettings()).run([*TONE, "-"])

    assert len(result.stdout) == 4410 * 2


async def test_run_passes_stdin() -> None:
    """Bytes to the standard input."""
    clip = mp3(silence(32_000), rate_hz=32_000)
    args = ["-f", "mp3", "-i", "pipe:0", "-f", "s16le", "-"]
    result = await Ffmpeg(FfmpegSettings()).run(args, stdin=clip)

    assert len(result.stdout) > 32_000


async def test_failure_has_exit_code_and_end_of_stderr() -> None:
    """The job's error has FFmpeg's own message."""
    with pytest.raises(FfmpegError, match=r"^FFmpeg merge failed: .+") as caught:
        await Ffmpeg(FfmpegSettings()).run(["-i", "/nowhere/at-all.mp4", "-f", "null", "-"])

    assert isinstance(caught.value, JobError)
    assert caught.value.exit_code not in {0, None}
    assert "No such file" in caught.value.stderr_tail
    assert caught.value.code == "ffmpeg_failed"
    assert not caught.value.retryable
    assert caught.value.argv[-1] == "-"


async def test_hanging_run_is_killed_with_its_children(tmp_path: Path) -> None:
    """At its deadline."""
    settings = a_program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(FfmpegError, match="timed out") as caught:
        await Ffmpeg(settings).run([])

    assert caught.value.exit_code is None
    assert caught.value.retryable
    child = int((tmp_path / "child").read_text())
    await _gone(child)


async def test_child_that_outlives_the_run_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """The program exited, but its child still holds the pipes."""
    settings = a_program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child")
    with pytest.raises(FfmpegError, match="timed out"):
        await Ffmpeg(settings).run([])

    await _gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("pipe", [1, 2])
async def test_run_with_too_much_output_is_killed(tmp_path: Path, pipe: int) -> None:
    """Its output does not fill the memory."""
    settings = a_program(tmp_path, f"echo $$ > {tmp_path}/self; exec yes >&{pipe}")
    with pytest.raises(FfmpegError, match="wrote more than"):
        await Ffmpeg(settings, output=OutputLimits(bytes_max=1_000_000)).run([], media_s=30)

    await _gone(int((tmp_path / "self").read_text()))


async def test_end_of_a_long_output_is_kept(tmp_path: Path) -> None:
    """The last values of a meter matter."""
    settings = a_program(tmp_path, "head -c 3000000 /dev/zero; printf 'the end'")
    result = await Ffmpeg(settings, output=OutputLimits(kept_bytes=10_000)).run([], media_s=30)

    assert len(result.stdout) == 10_000
    assert result.stdout.endswith(b"\0the end")


async def test_run_that_was_killed_is_retryable(tmp_path: Path) -> None:
    """Its last progress line is not the reason."""
    settings = a_program(tmp_path, "echo 'Stream #0:0: Audio' >&2; kill -9 $$")
    with pytest.raises(FfmpegError, match=r"^FFmpeg merge failed: .* by SIGKILL$") as caught:
        await Ffmpeg(settings).run([], media_s=30)

    assert caught.value.exit_code == -9
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("code", "words", "retryable"),
    [
        (228, "No space left on device", True),
        (244, "Cannot allocate memory", True),
        (1, "exit code 1", False),
    ],
)
async def test_exit_codes_of_the_machine_are_retryable(
    tmp_path: Path, code: int, words: str, *, retryable: bool
) -> None:
    """No space and no memory are failures of the machine, others of the media."""
    settings = a_program(tmp_path, f"exit {code}")
    with pytest.raises(FfmpegError, match=words) as caught:
        await Ffmpeg(settings).run([], media_s=30)

    assert caught.value.retryable is retryable


async def test_reason_is_the_last_line_with_one(tmp_path: Path) -> None:
    """FFmpeg ends with statistics and a general failure message."""
    stderr = (
        "[out#0] Error closing file: Input/output error",
        "size=  1KiB time=1",
        "Conversion failed!",
    )
    settings = a_program(tmp_path, "".join(f"echo '{line}' >&2;" for line in stderr) + "exit 251")
    with pytest.raises(FfmpegError, match=r"Error closing file: Input/output error$"):
        await Ffmpeg(settings).run([], media_s=30)


async def test_process_that_cannot_be_started_is_retryable(tmp_path: Path) -> None:
    """The program is being replaced, or the process limit is reached."""
    settings = a_program(tmp_path, "exit 0")
    ffmpeg = Ffmpeg(settings)
    (tmp_path / "ffmpeg").unlink()
    with pytest.raises(RetryableError, match="ffmpeg cannot be started: No such file"):
        await ffmpeg.run([])


async def test_cancelled_run_is_killed(tmp_path: Path) -> None:
    """A cancelled lane leaves no process behind."""
    settings = a_program(tmp_path, f"echo $$ > {tmp_path}/self; exec sleep 600")
    run = asyncio.create_task(Ffmpeg(settings).run([], media_s=100))
    await _until(lambda: (tmp_path / "self").exists() and (tmp_path / "self").read_text() != "")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    await _gone(int((tmp_path / "self").read_text()))


async def test_deadline_grows_with_the_media(tmp_path: Path) -> None:
    """By twice its length."""
    settings = a_program(tmp_path, "sleep 0.6")

    await Ffmpeg(settings).run([], media_s=30)


async def test_slots_limit_concurrent_runs(tmp_path: Path) -> None:
    """With one slot, the second run starts after the first."""
    log = tmp_path / "log"
    settings = a_program(tmp_path, f"echo in >> {log}; sleep 0.05; echo out >> {log}")
    ffmpeg = Ffmpeg(settings, slots=1)
    await asyncio.gather(ffmpeg.run([], media_s=10), ffmpeg.run([], media_s=10))

    assert log.read_text().split() == ["in", "out", "in", "out"]


async def test_crafted_file_cannot_open_a_url(tmp_path: Path) -> None:
    """Only the file and pipe protocols are allowed."""
    listing = tmp_path / "video.ffconcat"
    listing.write_text("ffconcat version 1.0\nfile http://127.0.0.1:1/a.ts\n")
    args: list[str | Path] = [
        *INPUT_GUARD,
        "-f",
        "concat",
        "-safe",
        "0",
        "-i",
        listing,
        "-f",
        "null",
        "-",
    ]
    with pytest.raises(FfmpegError) as caught:
        await Ffmpeg(FfmpegSettings()).run(args)

    assert "'http' not on whitelist" in caught.value.stderr_tail


async def test_version_is_the_one_that_the_binary_prints(tmp_path: Path) -> None:
    """A release or a build name; `unknown` if it prints none."""
    real = Ffmpeg(FfmpegSettings())
    named = Ffmpeg(a_program(tmp_path, "echo 'ffmpeg version 7.1-build Copyright (c) 2000'"))
    printed = (await real.run(["-version"])).stdout.decode().split()

    assert await real.version() == printed[2]
    assert await named.version() == "7.1-build"
    assert await Ffmpeg(a_program(tmp_path, "echo nothing")).version() == "unknown"


def test_missing_binary_stops_the_start() -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match="FFMPEG: no program at /nowhere/ffmpeg"):
        find_binary(FfmpegSettings(binary="/nowhere/ffmpeg"))


async def _gone(pid: int) -> None:
    """Return once the process is gone; a zombie only waits for its new parent."""
    await _until(lambda: not _runs(pid))


async def _until(true: Callable[[], bool]) -> None:
    """Return once the condition, set by another process, is true."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


async def test_memory_and_files_of_a_run_are_limited(tmp_path: Path) -> None:
    """By the kernel: ffmpeg reports no memory, and is killed at the size of its file."""
    little = FfmpegSettings(memory_bytes_max=64 * 1024**2)
    frames = ("-f", "lavfi", "-i", "color=s=8000x8000:d=1", "-f", "null", "-")
    with pytest.raises(FfmpegError, match=r"allocate memory|unavailable|killed by SIG") as caught:
        await Ffmpeg(little).run(frames)
    assert caught.value.retryable

    target = tmp_path / "tone.wav"
    tone = ("-f", "lavfi", "-i", "sine=d=60", target)
    with pytest.raises(FfmpegError, match=r"File too large|SIGXFSZ"):
        await Ffmpeg(FfmpegSettings()).run(tone, file_bytes_max=100_000)
    assert target.stat().st_size <= 100_000
