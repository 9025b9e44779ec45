"""Mux: replays, cancellations and ffmpeg failures duplicate, lose and leave nothing."""

import asyncio
import os
from pathlib import Path

import pytest

from services.muxer.probe import MuxCheckError
from shared.media.ffmpeg import Ffmpeg, FfmpegError
from shared.settings import FfmpegSettings
from shared.storage import keys
from tests.integration.mux_fixture import UPLOAD, MuxFixture
from tests.support.film_clips import film_clips
from tests.support.films import real_ffmpeg

pytestmark = pytest.mark.integration


def an_ffmpeg_script(folder: Path, *lines: str) -> Ffmpeg:
    """Return a script in place of ffmpeg that still lists ffmpeg's filters."""
    script = folder / "ffmpeg"
    listing = f'case "$*" in *-filters) exec {real_ffmpeg().binary} "$@";; esac'
    script.write_text("\n".join(["#!/bin/sh", listing, *lines]) + "\n")
    script.chmod(0o755)
    return Ffmpeg(FfmpegSettings(binary=str(script)))


async def test_a_replayed_record_returns_the_stored_event(tmp_path: Path) -> None:
    """The stored result is enough; track and source video may be deleted."""
    fixture = MuxFixture(tmp_path)
    merged = await fixture.store_track(video=film_clips().carphone, track_s=4.0)
    first = await fixture.mux.run(merged)
    before = await fixture.store.stat(first.object_key)
    await fixture.store.delete(merged.object_key)
    await fixture.store.delete(UPLOAD)

    assert await fixture.mux.run(merged) == first
    assert await fixture.store.stat(first.object_key) == before


@pytest.mark.parametrize("lost", ["video", "event", "half of the video", "a readable event"])
async def test_an_incomplete_result_is_muxed_again_with_the_same_bytes(
    tmp_path: Path, lost: str
) -> None:
    """Also after a crash between storing the two objects."""
    fixture = MuxFixture(tmp_path)
    merged = await fixture.store_track(video=film_clips().carphone, track_s=4.0)
    first = await fixture.mux.run(merged)
    if lost == "video":
        await fixture.store.delete(first.object_key)
    elif lost == "event":
        await fixture.store.delete(keys.muxed_key("job-1", 1))
    elif lost == "half of the video":
        await fixture.store.put(first.object_key, (await fixture.store.get(first.object_key))[:999])
    else:
        await fixture.store.put(keys.muxed_key("job-1", 1), b'{"job_id"')

    assert await fixture.mux.run(merged) == first
    await fixture.result(first)


async def test_a_cancelled_mux_stops_ffmpeg_and_removes_its_files(tmp_path: Path) -> None:
    """A cancelled job uses neither CPU nor disk."""
    started = tmp_path / "started"
    os.mkfifo(started)
    fixture = MuxFixture(
        tmp_path, an_ffmpeg_script(tmp_path, f"echo $$ > {started}", "exec sleep 600")
    )
    merged = await fixture.store_track(video=film_clips().carphone, track_s=4.0)

    running = asyncio.create_task(fixture.mux.run(merged))
    pid = int(await asyncio.to_thread(started.read_text))
    assert list(fixture.scratch.iterdir())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await fixture.assert_no_video()


async def test_an_ffmpeg_failure_is_reported_and_the_track_stays(tmp_path: Path) -> None:
    """The message begins as in the previous system."""
    fixture = MuxFixture(
        tmp_path, an_ffmpeg_script(tmp_path, "echo no space left on device >&2", "exit 1")
    )

    with pytest.raises(FfmpegError, match=r"^FFmpeg merge failed: no space left on device"):
        await fixture.mux.run(await fixture.store_track(video=film_clips().carphone, track_s=4.0))
    await fixture.assert_no_video()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("-i {film} -c copy -f mp4", "the sound of the result is"),
        ("-i {film} -i {track} -map 0:v -map 1:a -t 3 -c:v copy -c:a aac -f mp4", "unchanged"),
        (
            "-i {film} -i {track} -map 0:v -map 1:a -c:v libx264 -preset ultrafast -f mp4",
            "unchanged",
        ),
        (
            "-i {film} -i {track} -map 0:v -map 1:a -c:v copy -af atrim=0:3 -ar 48000 -f mp4",
            "samples from the picture's",
        ),
        (
            "-i {film} -i {track} -map 0:v -map 1:a -c:v copy -ac 1 -ar 48000 -f mp4",
            "the sound of the result is",
        ),
        (
            "-i {film} -map 0:v -c copy -bsf:v 'setts=pts=PTS+mod(N\\,2)*90' -f mp4",
            "are shown at other times",
        ),
        ("-i {film} -an -c copy -f mp4", "the sound of the result is"),
        ("-i {track} -c copy -f mp3", "the result: not a video"),
    ],
)
async def test_a_wrong_result_is_never_stored(tmp_path: Path, wrong: str, message: str) -> None:
    """The file is checked even if ffmpeg exits with 0."""
    film = film_clips().bigbuckbunny
    fixture = MuxFixture(
        tmp_path,
        an_ffmpeg_script(
            tmp_path,
            'for last in "$@"; do :; done',
            f"exec {real_ffmpeg().binary} -v error -y "
            + wrong.format(film=film, track=tmp_path / "track.mp3")
            + ' "$last"',
        ),
    )

    with pytest.raises(MuxCheckError, match=f"^FFmpeg merge failed: .*{message}"):
        await fixture.mux.run(await fixture.store_track(video=film, track_s=5.28))
    await fixture.assert_no_video()
