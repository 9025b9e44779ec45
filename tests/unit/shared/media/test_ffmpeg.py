"""FFmpeg: run to its end inside bounds; a fault keeps exit code and last words."""

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
    """Settings whose ffmpeg is a shell script, for what the real one will not do on command."""
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return FfmpegSettings(binary=str(path), timeout_s=0.3)


async def test_what_it_writes_is_returned() -> None:
    """Bytes from its standard output: 0.1 s of 44.1 kHz mono."""
    result = await Ffmpeg(FfmpegSettings()).run([*TONE, "-"])

    assert len(result.stdout) == 4410 * 2


async def test_what_it_is_given_is_read() -> None:
    """Bytes to its standard input."""
    clip = mp3(silence(32_000), rate_hz=32_000)
    args = ["-f", "mp3", "-i", "pipe:0", "-f", "s16le", "-"]
    result = await Ffmpeg(FfmpegSettings()).run(args, stdin=clip)

    assert len(result.stdout) > 32_000


async def test_a_fault_keeps_exit_code_and_last_words() -> None:
    """The job says why, in FFmpeg's own words."""
    with pytest.raises(FfmpegError, match=r"^FFmpeg merge failed: .+") as caught:
        await Ffmpeg(FfmpegSettings()).run(["-i", "/nowhere/at-all.mp4", "-f", "null", "-"])

    assert isinstance(caught.value, JobError)
    assert caught.value.exit_code not in {0, None}
    assert "No such file" in caught.value.stderr_tail
    assert caught.value.code == "ffmpeg_failed"
    assert not caught.value.retryable
    assert caught.value.argv[-1] == "-"


async def test_a_hanging_run_is_killed_with_its_children(tmp_path: Path) -> None:
    """At its deadline, and nothing of it stays behind."""
    settings = a_program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(FfmpegError, match="timed out") as caught:
        await Ffmpeg(settings).run([])

    assert caught.value.exit_code is None
    assert caught.value.retryable
    child = int((tmp_path / "child").read_text())
    await _gone(child)


async def test_a_child_that_outlives_it_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """The program is gone, but what it started still holds its pipes."""
    settings = a_program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child")
    with pytest.raises(FfmpegError, match="timed out"):
        await Ffmpeg(settings).run([])

    await _gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("pipe", [1, 2])
async def test_one_that_never_stops_talking_is_killed(tmp_path: Path, pipe: int) -> None:
    """Whatever it says, it does not fill our memory."""
    settings = a_program(tmp_path, f"echo $$ > {tmp_path}/self; exec yes >&{pipe}")
    with pytest.raises(FfmpegError, match="wrote more than"):
        await Ffmpeg(settings, output=OutputLimits(bytes_max=1_000_000)).run([], media_s=30)

    await _gone(int((tmp_path / "self").read_text()))


async def test_of_much_that_is_said_the_end_is_kept(tmp_path: Path) -> None:
    """A meter's last words are the ones that count."""
    settings = a_program(tmp_path, "head -c 3000000 /dev/zero; printf 'the end'")
    result = await Ffmpeg(settings, output=OutputLimits(kept_bytes=10_000)).run([], media_s=30)

    assert len(result.stdout) == 10_000
    assert result.stdout.endswith(b"\0the end")


async def test_one_that_is_killed_from_outside_may_be_tried_again(tmp_path: Path) -> None:
    """Its last line of progress is not the reason."""
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
async def test_a_full_machine_may_have_room_again(
    tmp_path: Path, code: int, words: str, *, retryable: bool
) -> None:
    """FFmpeg's exit codes for no space and no memory are of the machine, others of the media."""
    settings = a_program(tmp_path, f"exit {code}")
    with pytest.raises(FfmpegError, match=words) as caught:
        await Ffmpeg(settings).run([], media_s=30)

    assert caught.value.retryable is retryable


async def test_the_reason_is_the_last_line_that_has_one(tmp_path: Path) -> None:
    """FFmpeg ends with figures and with the news that it failed."""
    said = (
        "[out#0] Error closing file: Input/output error",
        "size=  1KiB time=1",
        "Conversion failed!",
    )
    settings = a_program(tmp_path, "".join(f"echo '{line}' >&2;" for line in said) + "exit 251")
    with pytest.raises(FfmpegError, match=r"Error closing file: Input/output error$"):
        await Ffmpeg(settings).run([], media_s=30)


async def test_one_that_cannot_be_started_now_is_tried_again(tmp_path: Path) -> None:
    """The program is being replaced, or the machine has no room for a process."""
    settings = a_program(tmp_path, "exit 0")
    ffmpeg = Ffmpeg(settings)
    (tmp_path / "ffmpeg").unlink()
    with pytest.raises(RetryableError, match="ffmpeg cannot be started: No such file"):
        await ffmpeg.run([])


async def test_a_cancelled_run_is_killed(tmp_path: Path) -> None:
    """A lane that is lost leaves no process behind."""
    settings = a_program(tmp_path, f"echo $$ > {tmp_path}/self; exec sleep 600")
    run = asyncio.create_task(Ffmpeg(settings).run([], media_s=100))
    await _until(lambda: (tmp_path / "self").exists() and (tmp_path / "self").read_text() != "")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    await _gone(int((tmp_path / "self").read_text()))


async def test_more_media_may_take_longer(tmp_path: Path) -> None:
    """The deadline grows with what there is to do."""
    settings = a_program(tmp_path, "sleep 0.6")

    await Ffmpeg(settings).run([], media_s=30)


async def test_only_so_many_run_at_once(tmp_path: Path) -> None:
    """One slot: the second starts after the first has ended."""
    log = tmp_path / "log"
    settings = a_program(tmp_path, f"echo in >> {log}; sleep 0.05; echo out >> {log}")
    ffmpeg = Ffmpeg(settings, slots=1)
    await asyncio.gather(ffmpeg.run([], media_s=10), ffmpeg.run([], media_s=10))

    assert log.read_text().split() == ["in", "out", "in", "out"]


async def test_a_crafted_file_cannot_open_a_url(tmp_path: Path) -> None:
    """Even where a demuxer would follow it: the guard knows files and pipes."""
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


async def test_the_version_is_the_one_that_the_binary_prints(tmp_path: Path) -> None:
    """A release or a build's own name; `unknown` if it prints none."""
    real = Ffmpeg(FfmpegSettings())
    named = Ffmpeg(a_program(tmp_path, "echo 'ffmpeg version 7.1-build Copyright (c) 2000'"))
    printed = (await real.run(["-version"])).stdout.decode().split()

    assert await real.version() == printed[2]
    assert await named.version() == "7.1-build"
    assert await Ffmpeg(a_program(tmp_path, "echo nothing")).version() == "unknown"


def test_a_binary_that_is_not_there_stops_the_start() -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match="FFMPEG: no program at /nowhere/ffmpeg"):
        find_binary(FfmpegSettings(binary="/nowhere/ffmpeg"))


async def _gone(pid: int) -> None:
    """Return once the process is gone; a zombie waits for its new parent only."""
    await _until(lambda: not _runs(pid))


async def _until(true: Callable[[], bool]) -> None:
    """Return once it is true; another process makes it so, and rings no bell."""
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
