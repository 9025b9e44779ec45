"""Video: what is told of real clips, and of files that only look like them."""

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
def test_a_real_clip_is_measured_by_its_packets(
    name: str, samples: int, packets: int, size: tuple[int, int], *, has_audio: bool
) -> None:
    """The length is the picture's, to the sample, whatever the sound beside it says."""
    path: Path = getattr(film_clips(), name)
    found = probe_video(path)

    assert found.samples == samples
    assert found.duration_s == samples / 48_000
    assert found.packet_count == packets == len(picture_packets(path))
    assert (found.width, found.height) == size
    assert found.has_audio is has_audio
    assert (found.demuxer, found.video_codec) == ("mov", "h264")


async def test_a_copy_in_another_container_has_the_same_picture(tmp_path: Path) -> None:
    """Matroska, fragments, another order of boxes: the packets are what counts."""
    clip = film_clips().bigbuckbunny
    original = probe_video(clip)
    fragments = ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov")
    copies = [
        await remux(clip, tmp_path / "a.mkv"),
        await remux(clip, tmp_path / "b.mp4", "-c", "copy", "-movflags", "+faststart"),
        await remux(clip, tmp_path / "c.mp4", *fragments),
        await remux(clip, tmp_path / "d.mov"),
    ]

    found = [probe_video(copy) for copy in copies]

    assert {f.picture_sha256 for f in found} == {original.picture_sha256}
    assert {f.samples for f in found} == {original.samples}
    assert found[0].demuxer == "matroska"


async def test_another_picture_has_another_hash(tmp_path: Path) -> None:
    """Coded again at the same size, it is not the same picture."""
    clip = film_clips().carphone
    again = await remux(clip, tmp_path / "a.mp4", "-c:v", "libx264")

    assert probe_video(again).picture_sha256 != probe_video(clip).picture_sha256


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
async def test_a_video_whose_header_promises_more_ends_early(tmp_path: Path, part: float) -> None:
    """Both ends are told, so that the person sees how much is missing."""
    data = await _fast_start(tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * part)])

    with pytest.raises(MediaError, match=r"ends early: its header says 5\.28 s, its packets end"):
        probe_video(path)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
async def test_a_cut_matroska_or_an_mp4_without_its_index_ends_early(
    tmp_path: Path, ending: str
) -> None:
    """Whatever the container, the words are the same."""
    clip = film_clips().bigbuckbunny
    whole = clip if ending == "mp4" else await remux(clip, tmp_path / "whole.mkv")
    data = whole.read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(data[: len(data) // 2])

    with pytest.raises(MediaError, match="ends early"):
        probe_video(path)


@pytest.mark.parametrize(
    ("data", "words"),
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
def test_a_file_that_is_no_video_is_told_by_its_bytes(
    tmp_path: Path, data: bytes, words: str
) -> None:
    """Its name does not count."""
    path = tmp_path / "film.mp4"
    path.write_bytes(data)

    with pytest.raises(MediaError, match=words):
        probe_video(path)


async def test_a_picture_in_a_codec_nobody_knows_is_told(tmp_path: Path) -> None:
    """The index names a codec that does not exist."""
    path = tmp_path / "odd.mp4"
    path.write_bytes((await _fast_start(tmp_path)).replace(b"avc1", b"zzzz"))

    with pytest.raises(MediaError, match="codec that FFmpeg does not know"):
        probe_video(path)


async def test_bytes_changed_at_random_end_in_an_answer_or_a_media_error(tmp_path: Path) -> None:
    """Three hundred damaged files, none of them another error; the seed is fixed."""
    chance = random.Random(7)
    seeds = [film_clips().carphone.read_bytes(), await _fast_start(tmp_path)]
    path = tmp_path / "damaged"
    outcomes = {VideoInfo: 0, MediaError: 0}
    for _ in range(300):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice([1, 10, 100])):
            at = chance.randrange(6000)
            data[at if chance.random() < 0.5 else -1 - at] = chance.randrange(256)
        path.write_bytes(data)
        try:
            outcomes[type(probe_video(path))] += 1
        except MediaError:
            outcomes[MediaError] += 1

    assert sum(outcomes.values()) == 300
    assert min(outcomes.values()) > 10
