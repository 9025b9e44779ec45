"""Tests of probing videos: real clips, damaged files and files that are not videos."""

import random
from pathlib import Path

import pytest

from shared.errors import MediaError
from shared.media.video import VideoInfo, probe_video
from tests.support.film_clips import film_clips
from tests.support.films import picture_packets, remux

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "samples", "packets", "size", "has_audio"),
    [
        ("bigbuckbunny", 253_440, 132, (1280, 720), True),
        ("bikes", 480_000, 250, (640, 272), False),
        ("carphone", 192_192, 120, (176, 144), False),
    ],
)
def test_the_probe_measures_a_clip_by_its_packets(
    name: str, samples: int, packets: int, size: tuple[int, int], *, has_audio: bool
) -> None:
    """The length is the picture's, to the sample, whatever the audio's length."""
    path: Path = getattr(film_clips(), name)
    info = probe_video(path)

    assert info.samples == samples
    assert info.duration_s == samples / 48_000
    assert info.packet_count == packets == len(picture_packets(path))
    assert (info.width, info.height) == size
    assert info.has_audio is has_audio
    assert (info.demuxer, info.video_codec) == ("mov", "h264")


async def test_a_copy_in_another_container_has_the_same_picture_hash(tmp_path: Path) -> None:
    """Matroska, fragments and another order of boxes."""
    clip = film_clips().bigbuckbunny
    original = probe_video(clip)
    fragments = ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov")
    copies = [
        await remux(clip, tmp_path / "a.mkv"),
        await remux(clip, tmp_path / "b.mp4", "-c", "copy", "-movflags", "+faststart"),
        await remux(clip, tmp_path / "c.mp4", *fragments),
        await remux(clip, tmp_path / "d.mov"),
    ]

    infos = [probe_video(copy) for copy in copies]

    assert {f.picture_sha256 for f in infos} == {original.picture_sha256}
    assert {f.samples for f in infos} == {original.samples}
    assert infos[0].demuxer == "matroska"


async def test_an_encoded_picture_has_another_hash(tmp_path: Path) -> None:
    """Also with the same size."""
    clip = film_clips().carphone
    encoded = await remux(clip, tmp_path / "a.mp4", "-c:v", "libx264")

    assert probe_video(encoded).picture_sha256 != probe_video(clip).picture_sha256


async def test_cover_art_is_not_the_picture(tmp_path: Path) -> None:
    """A song with a cover has no picture; a film with a cover has the film."""
    clips = film_clips()
    cover = await remux(clips.bikes, tmp_path / "cover.png", "-frames:v", "1")
    art = ("-map", "0", "-map", "1", "-c", "copy")
    song = await remux(clips.bigbuckbunny, tmp_path / "song.m4a", "-vn", "-c", "copy")
    with_cover = await remux(
        cover,
        tmp_path / "cover.m4a",
        *art,
        "-disposition:v:0",
        "attached_pic",
        before=("-i", str(song)),
    )
    film = await remux(
        cover,
        tmp_path / "film.mp4",
        *art,
        "-disposition:v:1",
        "attached_pic",
        before=("-i", str(clips.bikes)),
    )

    for path in (song, with_cover):
        with pytest.raises(MediaError, match="the file has no picture: only sound"):
            probe_video(path)
    assert probe_video(film).picture_sha256 == probe_video(clips.bikes).picture_sha256


async def _fast_start(folder: Path) -> bytes:
    clip = film_clips().bigbuckbunny
    path = await remux(clip, folder / "fast.mp4", "-c", "copy", "-movflags", "+faststart")
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.02, 0.4, 0.99])
async def test_a_truncated_video_is_rejected_with_both_lengths(tmp_path: Path, part: float) -> None:
    """The message has the length of the header and the end of the packets."""
    data = await _fast_start(tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * part)])

    with pytest.raises(MediaError, match=r"ends early: its header says 5\.28 s, its packets end"):
        probe_video(path)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
async def test_a_truncated_matroska_or_mp4_without_index_is_rejected(
    tmp_path: Path, ending: str
) -> None:
    """With the same message for both."""
    clip = film_clips().bigbuckbunny
    whole = clip if ending == "mp4" else await remux(clip, tmp_path / "whole.mkv")
    data = whole.read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(data[: len(data) // 2])

    with pytest.raises(MediaError, match="ends early"):
        probe_video(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a video: the file is empty"),
        (b"hello, this is\na text file\n" * 50, "not a video: the file is text"),
        ("Grüße aus Köln, c'est la fête\n".encode() * 50, "not a video: the file is text"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "not a video: the file is text"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video: the file is text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a video: the file is text"),
        (b"RIFF\x00\x00\x00\x00AVI LIST" + bytes(999), "MP4, MOV, Matroska and WebM"),
        (bytes(5000), "not a video"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(999), "ends early or is damaged|has no picture"),
        (b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 9, "ends early or is damaged|has no picture"),
    ],
)
def test_a_file_that_is_not_a_video_is_rejected_by_its_bytes(
    tmp_path: Path, data: bytes, message: str
) -> None:
    """The name of the file does not matter."""
    path = tmp_path / "film.mp4"
    path.write_bytes(data)

    with pytest.raises(MediaError, match=message):
        probe_video(path)


async def test_a_picture_in_an_unknown_codec_is_rejected(tmp_path: Path) -> None:
    """The index names a codec that does not exist."""
    path = tmp_path / "odd.mp4"
    path.write_bytes((await _fast_start(tmp_path)).replace(b"avc1", b"zzzz"))

    with pytest.raises(MediaError, match="codec is unknown to FFmpeg"):
        probe_video(path)


async def test_a_damaged_file_is_probed_or_raises_a_media_error(tmp_path: Path) -> None:
    """300 damaged files with a fixed seed raise no other error."""
    generator = random.Random(7)
    seeds = [film_clips().carphone.read_bytes(), await _fast_start(tmp_path)]
    path = tmp_path / "damaged"
    outcomes = {VideoInfo: 0, MediaError: 0}
    for _ in range(300):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.choice([1, 10, 100])):
            at = generator.randrange(6000)
            data[at if generator.random() < 0.5 else -1 - at] = generator.randrange(256)
        path.write_bytes(data)
        try:
            outcomes[type(probe_video(path))] += 1
        except MediaError:
            outcomes[MediaError] += 1

    assert sum(outcomes.values()) == 300
    assert min(outcomes.values()) > 10
