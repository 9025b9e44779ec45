"""File names that FFmpeg would read as something else are files everywhere."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from services.muxer.probe import probe_sound
from shared.media.ffmpeg import INPUT_GUARD
from shared.media.paths import media_path
from shared.media.style_sample import read_style
from shared.media.video import probe_video
from tests.support.films import real_ffmpeg

#: read as a URL, an option, a list, a pipe, a number pattern, a protocol, or not as UTF-8
NAMES = (
    "2024-05-06T10:11:12.mp4",
    "-x.mp4",
    "concat:a.mp4",
    "pipe:0",
    "%03d.png",
    "file:x.mp4",
    "http:x.mp4",
    "a [b] 'c' \"d\" é.mp4",
    os.fsdecode(b"caf\xe9.mp4"),
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a film of a second with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=5:d=1.2"]
    sound = ["-f", "lavfi", "-i", "sine=r=48000:d=1.2"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]
    asyncio.run(real_ffmpeg().run(["-v", "error", *picture, *sound, *codecs, path]))
    return path


@pytest.mark.parametrize("name", NAMES)
async def test_a_path_is_a_path_whatever_its_name(
    film: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, in the current folder: probed, decoded, and read and written by ffmpeg."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    shutil.copyfile(film, path)

    copied = Path(f"{name}.copy")
    await real_ffmpeg().run(
        [*INPUT_GUARD, "-f", "mov", "-i", path, "-c", "copy", "-f", "mp4", copied]
    )

    assert probe_video(path).packet_count == probe_video(copied).packet_count == 6
    assert [sound.codec for sound in probe_sound(copied)] == ["aac"]
    assert read_style(path, window_s=1).window_s == 1


def test_a_media_path_is_absolute_and_has_the_protocol(tmp_path: Path) -> None:
    """So that it stays valid in a process with another current folder."""
    assert media_path(tmp_path / "x:y.mp4") == f"file:{tmp_path}/x:y.mp4"
    assert media_path(Path("x.mp4")) == f"file:{Path.cwd()}/x.mp4"
