"""Mux: an unsuitable video is rejected with a clear message, and the track stays."""

from pathlib import Path

import pytest

from shared.contract.params import SyncMode, VideoRef
from shared.errors import MediaError
from tests.integration.mux_fixture import MuxFixture
from tests.support.film_clips import film_clips
from tests.support.films import remux
from tests.unit.shared.http.upstream_server import upstream

pytestmark = pytest.mark.integration


@pytest.fixture
def fixture(tmp_path: Path) -> MuxFixture:
    """Return a muxer with the real ffmpeg."""
    return MuxFixture(tmp_path)


@pytest.mark.parametrize("track_s", [4.9, 20.1])
async def test_the_muxer_rejects_a_compress_ratio_out_of_range(
    fixture: MuxFixture, track_s: float
) -> None:
    """The message names the ratio; the track can still be downloaded."""
    merged = await fixture.store_track(
        video=film_clips().bikes, track_s=track_s, mode=SyncMode.COMPRESS
    )

    with pytest.raises(MediaError, match=rf"a ratio of {track_s / 10:.2f}"):
        await fixture.mux.run(merged)
    await fixture.assert_no_video()


async def test_the_muxer_rejects_a_codec_that_mp4_cannot_hold(fixture: MuxFixture) -> None:
    """The message names the codec and how to convert the video."""
    vp8 = ("-c:v", "libvpx", "-deadline", "realtime")
    source = await remux(film_clips().carphone, fixture.folder / "v.webm", *vp8)

    with pytest.raises(MediaError, match=r"^video\.object: MP4 cannot hold a picture in vp8") as e:
        await fixture.mux.run(await fixture.store_track(video=source, track_s=2.5))
    assert "libx264" in e.value.reason
    await fixture.assert_no_video()


@pytest.mark.parametrize(
    ("data", "message"),
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
async def test_the_muxer_rejects_a_playlist_and_opens_no_url_in_it(
    fixture: MuxFixture, data: bytes, message: str
) -> None:
    """No connection is made to an address in the file."""
    async with upstream() as sentinel:
        url = f"http://127.0.0.1:{sentinel.port}/a.ts"
        path = fixture.folder / "film.mp4"
        path.write_bytes(data.replace(b"{url}", url.encode()))

        with pytest.raises(MediaError, match=rf"^video\.object: .*({message})"):
            await fixture.mux.run(await fixture.store_track(video=path, track_s=2.0))
        assert sentinel.connections == 0
    await fixture.assert_no_video()


async def test_the_muxer_rejects_a_video_without_a_picture_or_without_its_end(
    fixture: MuxFixture,
) -> None:
    """An audio file and a truncated video."""
    clip = film_clips().bigbuckbunny
    sound = await remux(clip, fixture.folder / "sound.mp4", "-vn", "-c", "copy")
    half = fixture.folder / "half.mp4"
    half.write_bytes(clip.read_bytes()[:500_000])

    for path, message in ((sound, "has no picture"), (half, "ends early")):
        with pytest.raises(MediaError, match=message):
            await fixture.mux.run(await fixture.store_track(video=path, track_s=2.0))
    await fixture.assert_no_video()


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (VideoRef(object="uploads/none"), r"^video\.object: object not found"),
        (VideoRef(url="http://169.254.169.254/latest"), r"^video\.url: 169"),
        (None, "^video: the job has no video"),
    ],
)
async def test_an_unavailable_video_is_named_by_its_field(
    fixture: MuxFixture, ref: VideoRef | None, message: str
) -> None:
    """No video is stored, and the track stays."""
    with pytest.raises(MediaError, match=message):
        await fixture.mux.run(await fixture.store_track(video=ref, track_s=2.0))
    await fixture.assert_no_video()


async def test_a_missing_track_is_retryable(fixture: MuxFixture) -> None:
    """Retention may have deleted it; a new run makes it again."""
    merged = await fixture.store_track(video=film_clips().carphone, track_s=2.0)
    await fixture.store.delete(merged.object_key)

    with pytest.raises(MediaError, match="track of run 1 is no longer in the store") as caught:
        await fixture.mux.run(merged)
    assert caught.value.retryable
