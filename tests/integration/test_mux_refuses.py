"""Mux: what cannot be scored is refused in words for a person, and the track stays."""

from pathlib import Path

import pytest

from shared.contract.params import SyncMode, VideoRef
from shared.errors import MediaError
from tests.integration.mux_fixture import MuxFixture
from tests.support.film_clips import film_clips
from tests.support.films import (
    remux,
)
from tests.unit.shared.http.upstream_server import upstream

pytestmark = pytest.mark.integration


@pytest.fixture
def fixture(tmp_path: Path) -> MuxFixture:
    """A muxer with the real ffmpeg."""
    return MuxFixture(tmp_path)


@pytest.mark.parametrize("track_s", [4.9, 20.1])
async def test_compress_outside_its_range_makes_nothing_and_keeps_the_track(
    fixture: MuxFixture, track_s: float
) -> None:
    """The message names the ratio; the track stays for download."""
    merged = await fixture.merged(video=film_clips().bikes, track_s=track_s, mode=SyncMode.COMPRESS)

    with pytest.raises(MediaError, match=rf"a ratio of {track_s / 10:.2f}"):
        await fixture.mux.run(merged)
    await fixture.assert_nothing_made()


async def test_a_picture_that_mp4_cannot_hold_is_refused_by_its_codec(fixture: MuxFixture) -> None:
    """The person learns which codec it is and how to change it."""
    vp8 = ("-c:v", "libvpx", "-deadline", "realtime")
    source = await remux(film_clips().carphone, fixture.folder / "v.webm", *vp8)

    with pytest.raises(MediaError, match=r"^video\.object: MP4 cannot hold a picture in vp8") as e:
        await fixture.mux.run(await fixture.merged(video=source, track_s=2.5))
    assert "libx264" in e.value.reason
    await fixture.assert_nothing_made()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a text file\n" * 99, "not a video: the file is text"),
        (b"", "not a video: the file is empty"),
        (b"#EXTM3U\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n", "not a video: the file is text"),
        (b"ffconcat version 1.0\nfile {url}\n", "not a video: the file is text"),
        (b"\x00\x00\x00\x18ftypisom#EXTM3U\n#EXTINF:1,\n{url}\n", "cannot be read|no picture"),
        (b"\x1a\x45\xdf\xa3#EXTM3U\n#EXTINF:1,\n{url}\n", "cannot be read|no picture"),
        (b"<MPD><BaseURL>{url}</BaseURL></MPD>", "not a video: the file is text"),
    ],
)
async def test_a_file_that_only_has_a_videos_name_is_refused_and_asks_nobody(
    fixture: MuxFixture, data: bytes, words: str
) -> None:
    """No address in a file's bytes is ever opened."""
    async with upstream() as sentinel:
        url = f"http://127.0.0.1:{sentinel.port}/a.ts"
        path = fixture.folder / "film.mp4"
        path.write_bytes(data.replace(b"{url}", url.encode()))

        with pytest.raises(MediaError, match=rf"^video\.object: .*({words})"):
            await fixture.mux.run(await fixture.merged(video=path, track_s=2.0))
        assert sentinel.connections == 0
    await fixture.assert_nothing_made()


async def test_a_video_without_picture_or_without_its_end_is_refused(fixture: MuxFixture) -> None:
    """Sound alone is no video, and half of one would get music it does not fit."""
    clip = film_clips().bigbuckbunny
    sound = await remux(clip, fixture.folder / "sound.mp4", "-vn", "-c", "copy")
    half = fixture.folder / "half.mp4"
    half.write_bytes(clip.read_bytes()[:500_000])

    for path, words in ((sound, "has no picture"), (half, "ends early")):
        with pytest.raises(MediaError, match=words):
            await fixture.mux.run(await fixture.merged(video=path, track_s=2.0))
    await fixture.assert_nothing_made()


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (VideoRef(object="uploads/none"), r"^video\.object: there is no object"),
        (VideoRef(url="http://169.254.169.254/latest"), r"^video\.url: 169"),
        (None, "^video: .*the job names none"),
    ],
)
async def test_a_video_that_cannot_be_had_is_named_by_its_field(
    fixture: MuxFixture, ref: VideoRef | None, words: str
) -> None:
    """Nothing is made, and the track stays."""
    with pytest.raises(MediaError, match=words):
        await fixture.mux.run(await fixture.merged(video=ref, track_s=2.0))
    await fixture.assert_nothing_made()


async def test_a_track_that_is_gone_is_told(fixture: MuxFixture) -> None:
    """An operator may have cleaned up; a new run helps."""
    merged = await fixture.merged(video=film_clips().carphone, track_s=2.0)
    await fixture.store.delete(merged.object_key)

    with pytest.raises(MediaError, match="track of run 1 is not in the store") as caught:
        await fixture.mux.run(merged)
    assert caught.value.retryable
