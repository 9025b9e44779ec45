"""Mux: real films are unusual, and the result shows the same frames at the same times.

Each film is decoded before and after, as a player presents it; packets alone do not show what an
edit list does.
"""

import hashlib
import shlex
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from services.muxer.ffmpeg_plan import AAC_FRAME_SAMPLES
from shared.contract.events import VideoMuxed
from shared.errors import MediaError
from shared.media.samples import samples_at
from shared.media.video import probe_video
from shared.media.video_container import CONVERT
from tests.integration.mux_fixture import MuxFixture
from tests.support.films import presented_sound, real_ffmpeg
from tests.support.odd_films import (
    B_FRAMES,
    FILM_S,
    HEVC,
    VP9,
    X264,
    Box,
    OddFilm,
    entry_boxes,
    ffmpeg,
    film,
    matroska_with_encryption,
)

pytestmark = pytest.mark.integration

AT_FIVE = ("-output_ts_offset", "5")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the films that the cases start from."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "b.mp4", *B_FRAMES)
    film(folder / "sound.mp4", *B_FRAMES, sound=True)
    film(folder / "plain.mp4", *X264, "-bf", "0")
    film(folder / "negative.mp4", *B_FRAMES, "-movflags", "+negative_cts_offsets")
    open_gop = ("-bf", "4", "-g", "25", "-x264-params", "open-gop=1:b-pyramid=normal")
    film(folder / "open.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", *open_gop)
    film(folder / "hevc.mkv", *HEVC)
    ffmpeg("-i", folder / "hevc.mkv", "-c", "copy", "-tag:v", "hvc1", folder / "hevc.mp4")
    return folder


def presented(path: Path) -> list[tuple[Fraction, str]]:
    """Return time, from the first frame, and digest of every frame that a player shows."""
    with av.open(str(path)) as container:
        cover = Disposition.attached_pic
        picture = next(s for s in container.streams.video if not s.disposition & cover)
        frames = [
            (frame.pts * frame.time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())  # noqa: S324 - not for security
            for frame in container.decode(picture)
            if frame.pts is not None and frame.time_base is not None
        ]
    return [(time - frames[0][0], digest) for time, digest in frames]


async def score(folder: Path, source: Path) -> tuple[VideoMuxed, Path]:
    """Mux a track with the film; return the event and the result."""
    fixture = MuxFixture(folder)
    event = await fixture.mux.run(await fixture.store_track(video=source, track_s=FILM_S))
    return event, await fixture.result(event)


def edited(source: str, *edits: tuple[float, float]) -> Callable[[Path, Path], Path]:
    """Return a case: the film with this edit list."""
    return lambda films, path: OddFilm(films / source).with_edits(*edits).write(path)


def copied(source: str, name: str, *args: str) -> Callable[[Path, Path], Path]:
    """Return a case: the film in another container."""

    def build(films: Path, path: Path) -> Path:
        ffmpeg("-i", films / source, "-c", "copy", *args, path.with_name(name))
        return path.with_name(name)

    return build


def two_descriptions(_: Path, path: Path) -> Path:
    """Return a film of two differently encoded parts, each with its own sample entry."""
    size = ("-frames:v", "25")
    first = film(path.with_name("first.mp4"), *X264, *size, "-x264-params", "cabac=0")
    second = film(path.with_name("second.mp4"), *X264[:2], *X264[4:], *size)
    listing = path.with_name("list")
    listing.write_text(f"file {first}\nfile {second}\n")
    joined = path.with_name("joined.mp4")
    ffmpeg("-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", joined)
    odd = OddFilm(joined).with_second_description(OddFilm(second), samples=25)
    return odd.write(path)


def live_webm(_: Path, path: Path) -> Path:
    """Return a recording of a browser: no length and no index, times from 3 s on."""
    args = ("-output_ts_offset", "3", "-live", "1", "-f", "webm")
    return film(path.with_name("live.webm"), *VP9, *args)


#: how the film is built, its length, its frames
SCORED = {
    "an edit inside a GOP": (edited("b.mp4", (0.52, 2)), 1.48, 37),
    "an edit that cuts both ends": (edited("plain.mp4", (0.52, 1.2)), 0.68, 17),
    "an edit inside the last frame of a GOP": (edited("b.mp4", (0.97, 1.8)), 0.8, 20),
    "an edit that ends between B-frames": (edited("b.mp4", (0, 0.792)), 0.8, 20),
    "an edit within one GOP": (edited("b.mp4", (1.56, 1.71)), 0.16, 4),
    "an edit of an open GOP": (edited("open.mp4", (0.342, 1.437)), 1.08, 27),
    "negative composition offsets that an edit ends": (
        edited("negative.mp4", (0.417, 1.785)),
        1.36,
        34,
    ),
    "negative composition offsets": (edited("negative.mp4", (0.52, 2)), 1.48, 37),
    "an edit of length 0": (edited("b.mp4", (0, 0)), 2.0, 50),
    "a later edit of length 0": (edited("plain.mp4", (0, 2), (1, 1)), 2.0, 50),
    "a first edit of length 0": (edited("plain.mp4", (1, 1), (0, 2)), 2.0, 50),
    "edits that continue each other": (edited("b.mp4", (0, 1), (1, 2)), 2.0, 50),
    "three such edits inside GOPs": (edited("plain.mp4", (0.2, 0.6), (0.6, 1), (1, 2)), 1.8, 45),
    "an edit longer than the film": (edited("b.mp4", (0, 9)), 2.0, 50),
    "a header longer than the film": (
        lambda films, path: OddFilm(films / "b.mp4").with_length(9).write(path),
        2.0,
        50,
    ),
    "two sample descriptions": (two_descriptions, 2.0, 50),
    "Matroska from 5 s on": (copied("sound.mp4", "five.mkv", *AT_FIVE), 2.0, 50),
    "fragments": (copied("b.mp4", "f.mp4", "-movflags", "frag_keyframe+empty_moov"), 2.0, 50),
    "a live WebM from 3 s on": (live_webm, 2.0, 50),
}


#: the same presentation with one edit, where FFmpeg shows the edits of the case otherwise
REFERENCES = {case: built[0] for case, built in SCORED.items()} | {
    "an edit of length 0": edited("b.mp4", (0, 2)),
}


@pytest.mark.parametrize("case", SCORED)
async def test_the_result_presents_the_same_frames_at_the_same_times(
    films: Path, tmp_path: Path, case: str
) -> None:
    """Frames and times are decoded; the sound is as long as the presented picture."""
    build, length_s, frames = SCORED[case]
    source = build(films, tmp_path / "odd.mp4")
    event, result = await score(tmp_path, source)

    expected = presented(REFERENCES[case](films, tmp_path / "same.mp4"))
    assert len(expected) == frames
    assert presented(result) == expected
    assert event.duration_s == pytest.approx(length_s, abs=0.001)
    assert abs(presented_sound(result)[0] - samples_at(length_s)) < AAC_FRAME_SAMPLES


@pytest.mark.parametrize("source", ["b.mp4", "sound.mp4"])
async def test_a_picture_that_begins_later_keeps_its_time(
    films: Path, tmp_path: Path, source: str
) -> None:
    """An empty edit shows nothing for half a second; the music begins before the picture."""
    odd = OddFilm(films / source).with_edits((-0.5, 0), (0, 2)).write(tmp_path / "odd.mp4")
    event, result = await score(tmp_path, odd)

    assert first_s(result) == first_s(odd) == Fraction(1, 2)
    assert presented(result) == presented(odd)
    assert event.duration_s == 2.5
    assert presented_sound(result)[0] == samples_at(2.5)


def first_s(path: Path) -> Fraction:
    """Return the time of the first frame on the timeline of the file."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base


async def test_a_header_longer_than_the_frames_is_reported(films: Path, tmp_path: Path) -> None:
    """Of a WebM, which a truncated file looks like; a truncated one is still refused."""
    whole = film(tmp_path / "whole.webm", *VP9)
    data = whole.read_bytes()
    place = data.index(b"\x44\x89\x88") + 3  # the length, a double in milliseconds
    longer = tmp_path / "longer.webm"
    longer.write_bytes(data[:place] + bytes.fromhex("40c1940000000000") + data[place + 8 :])  # 9 s
    event, result = await score(tmp_path, longer)

    assert presented(result) == presented(whole)
    lengths = "its header says 9.00 s, its packets end at 2.00 s"
    assert event.warnings == (f"the video's header is wrong: {lengths}; the packets decide",)
    longer.write_bytes(longer.read_bytes()[: len(data) // 2])
    with pytest.raises(MediaError, match=r"ends early: its header says 9\.00 s"):
        probe_video(longer)


REFUSED = {
    "several parts": (edited("b.mp4", (0, 0.52), (1, 1.52)), "shows the picture in 2 parts"),
    "parts that start inside a GOP": (edited("b.mp4", (0, 1), (1.52, 2)), "in 2 parts"),
    "parts in another order": (edited("plain.mp4", (1, 2), (0, 1)), "in 2 parts"),
    "a part shown twice": (edited("plain.mp4", (0, 1), (0, 1)), "in 2 parts"),
    "a pause between parts": (edited("plain.mp4", (0, 1), (-1, 0), (1, 2)), "in 3 parts"),
    "another speed": (
        lambda films, path: OddFilm(films / "b.mp4").with_edits((0, 2), rate=2).write(path),
        "at another speed",
    ),
    "VP8": (
        lambda _, path: film(path.with_suffix(".webm"), "-c:v", "libvpx", "-deadline", "realtime"),
        "MP4 cannot hold a picture in vp8",
    ),
    "ProRes": (
        lambda _, path: film(path.with_suffix(".mov"), "-c:v", "prores"),
        "MP4 cannot hold a picture in prores",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_picture_that_cannot_be_copied_is_refused_with_a_command_that_works(
    films: Path, tmp_path: Path, case: str
) -> None:
    """The command of the message makes a film with the same presentation."""
    build, message = REFUSED[case]
    source = build(films, tmp_path / "odd.mp4")

    with pytest.raises(MediaError, match=message) as refused:
        probe_video(source)
    assert refused.value.reason.endswith(CONVERT)
    converted = run_advice(refused.value.reason, source, tmp_path)
    times = [time for time, _ in presented(source)]
    assert [time for time, _ in presented(converted)] == pytest.approx(times, abs=0.001)
    assert probe_video(converted).duration_s == pytest.approx(len(times) / 25, abs=0.05)


def test_edits_that_players_show_differently_are_refused(films: Path, tmp_path: Path) -> None:
    """FFmpeg shows these with a gap of one frame, which the one edit that they mean has not."""
    source = edited("b.mp4", (0.2, 0.6), (0.6, 1), (1, 2))(films, tmp_path / "odd.mp4")

    with pytest.raises(MediaError, match="shows the picture in several parts"):
        probe_video(source)


def run_advice(message: str, source: Path, folder: Path) -> Path:
    """Run the ffmpeg command at the end of a message in a shell, as a user would."""
    target = folder / "converted.mp4"
    command = message[message.index("ffmpeg -i IN") :]
    for name, value in (("ffmpeg", real_ffmpeg().binary), ("IN", source), ("OUT.mp4", target)):
        command = command.replace(name, shlex.quote(str(value)), 1)
    done = subprocess.run(  # noqa: S602 - the quotes of the message are part of the test
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("a.wmv", ("-c:v", "wmv2", "-c:a", "wmav2")),
        ("a.ogv", ("-c:v", "libtheora", "-c:a", "libvorbis")),
        ("a.gif", ("-an",)),
        ("a.avi", ("-c:v", "mpeg4", "-c:a", "mp3")),
        ("a.ts", (*X264, "-c:a", "aac")),
        ("a.flv", ("-c:v", "flv", "-ar", "44100", "-c:a", "mp3")),
    ],
)
def test_the_advice_for_another_container_works(
    tmp_path: Path, name: str, args: tuple[str, ...]
) -> None:
    """Also for a picture of odd size, which H.264 cannot have."""
    size = "95x63" if name.endswith(".gif") else "96x64"
    source = film(tmp_path / name, *args, size=size, sound=True)

    with pytest.raises(MediaError, match="unsupported format") as refused:
        probe_video(source)
    converted = run_advice(refused.value.reason, source, tmp_path)
    assert probe_video(converted).duration_s == pytest.approx(FILM_S, abs=0.1)


def test_an_encrypted_film_is_refused(films: Path, tmp_path: Path) -> None:
    """CENC in MP4, also for a codec that FFmpeg does not report as encrypted, and WebM."""
    cenc = tmp_path / "cenc.mp4"
    key = ("-encryption_key", "0" * 32, "-encryption_kid", "1" * 32)
    ffmpeg(*("-i", films / "b.mp4", "-c", "copy", "-encryption_scheme", "cenc-aes-ctr"), *key, cenc)
    fairplay = OddFilm(films / "b.mp4").with_entry_type(b"drmi").write(tmp_path / "drmi.mp4")
    webm = film(tmp_path / "a.webm", *VP9)
    webm.write_bytes(matroska_with_encryption(webm.read_bytes()))

    for path in (cenc, fairplay, webm):
        with pytest.raises(MediaError, match="the film is encrypted") as refused:
            probe_video(path)
        assert refused.value.code == "encrypted"


MARKED: dict[str, tuple[Callable[[Path, Path], Path], str, set[str]]] = {
    "HEVC from Matroska": (copied("hevc.mkv", "h.mkv"), "hvc1", set()),
    "HEVC as hev1": (copied("hevc.mp4", "h.mp4", "-tag:v", "hev1"), "hvc1", set()),
    "Dolby Vision 5": (
        lambda films, path: (
            OddFilm(films / "hevc.mp4").with_entry_type(b"dvh1").with_dolby_vision(5, 0).write(path)
        ),
        "dvh1",
        {"dvcC"},
    ),
    "Dolby Vision 8.1": (
        lambda films, path: OddFilm(films / "hevc.mp4").with_dolby_vision(8, 1).write(path),
        "hvc1",
        {"dvvC"},
    ),
    "Dolby Vision 8.4 as hev1": (
        lambda films, path: (
            OddFilm(films / "hevc.mp4").with_entry_type(b"hev1").with_dolby_vision(8, 4).write(path)
        ),
        "hvc1",
        {"dvvC"},
    ),
    "spherical version 1": (
        lambda films, path: OddFilm(films / "b.mp4").with_spherical(1).write(path),
        "avc1",
        {"sv3d"},
    ),
    "spherical version 2": (
        lambda films, path: OddFilm(films / "b.mp4").with_spherical(2).write(path),
        "avc1",
        {"st3d", "sv3d"},
    ),
}


@pytest.mark.parametrize("case", MARKED)
async def test_the_result_keeps_how_the_picture_is_marked(
    films: Path, tmp_path: Path, case: str
) -> None:
    """The type of the sample entry that Apple's players accept, and the boxes in it."""
    build, kind, boxes = MARKED[case]
    event, result = await score(tmp_path, build(films, tmp_path / "odd.mp4"))

    assert entry_boxes(result)[0] == kind
    assert entry_boxes(result)[1] >= boxes
    assert event.warnings == ()


async def test_a_box_that_ffmpeg_does_not_write_is_reported(films: Path, tmp_path: Path) -> None:
    """Such as one of a later standard."""
    odd = OddFilm(films / "b.mp4").with_entry_box(Box(b"new1", bytes(8))).write(tmp_path / "a.mp4")
    event, _ = await score(tmp_path, odd)

    assert event.warnings == ("not kept of the video: boxes of the picture (new1)",)


SUBTITLES = "1\n00:00:00,200 --> 00:00:00,900\nHello\n\n2\n00:00:01,000 --> 00:00:01,800\nBye\n"
METADATA = """;FFMETADATA1
title=My film
date=2024-05-06
location=+48.1351+011.5820/
creation_time=2024-05-06T10:11:12.000000Z
[CHAPTER]
TIMEBASE=1/1000
START=0
END=1000
title=First
[CHAPTER]
TIMEBASE=1/1000
START=1000
END=2000
title=Second
"""


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "mov_text"), ("mov", "mov_text"), ("mkv", "srt")]
)
async def test_subtitles_chapters_and_metadata_are_kept(
    films: Path, tmp_path: Path, ending: str, codec: str
) -> None:
    """From every container, with their times and languages."""
    (tmp_path / "a.srt").write_text(SUBTITLES)
    (tmp_path / "a.txt").write_text(METADATA)
    rich = tmp_path / f"rich.{ending}"
    ffmpeg(
        *("-i", films / "sound.mp4", "-i", tmp_path / "a.srt", "-i", tmp_path / "a.txt"),
        *("-map", "0", "-map", "1", "-map_metadata", "2", "-map_chapters", "2", "-c", "copy"),
        *("-c:s", codec, "-metadata:s:s:0", "language=eng", "-timecode", "01:02:03:04", rich),
    )
    event, result = await score(tmp_path, rich)

    with av.open(str(result)) as container:
        tags = container.metadata
        assert (tags["title"], tags["date"]) == ("My film", "2024-05-06")
        assert tags["location"] == "+48.1351+011.5820/"
        assert tags["creation_time"] == "2024-05-06T10:11:12.000000Z"
        assert [c["metadata"]["title"] for c in container.chapters()] == ["First", "Second"]
        (text,) = container.streams.subtitles
        assert text.metadata["language"] == "eng"
        packets = [p for p in container.demux(text) if p.size > 2 and p.pts is not None]
        texts = [((p.pts or 0) * p.time_base, bytes(p)[2:]) for p in packets]
    assert texts == [(Fraction(1, 5), b"Hello"), (Fraction(1), b"Bye")]
    assert event.warnings == ()


async def test_the_place_and_date_of_a_phone_are_kept(films: Path, tmp_path: Path) -> None:
    """Under Apple's names; what MP4 has no place for is reported."""
    apple = {"location.ISO6709": "+48.1351+011.5820/", "creationdate": "2024-05-06", "make": "A"}
    tags = [f"com.apple.quicktime.{name}={value}" for name, value in apple.items()]
    options = [option for tag in tags for option in ("-metadata", tag)]
    phone = tmp_path / "phone.mov"
    ffmpeg("-i", films / "b.mp4", "-c", "copy", "-movflags", "use_metadata_tags", *options, phone)
    event, result = await score(tmp_path, phone)

    with av.open(str(result)) as container:
        kept = container.metadata
    assert (kept["location"], kept["date"]) == ("+48.1351+011.5820/", "2024-05-06")
    assert event.warnings == ("not kept of the video: metadata (com.apple.quicktime.make)",)


async def test_a_transparent_picture_is_reported(tmp_path: Path) -> None:
    """WebM stores the transparency beside the frames, MP4 cannot."""
    source = film(tmp_path / "a.webm", *VP9, "-pix_fmt", "yuva420p")
    event, _ = await score(tmp_path, source)

    assert event.warnings == ("not kept of the video: the transparency of the picture",)


async def test_what_is_not_kept_is_listed_in_the_warnings(films: Path, tmp_path: Path) -> None:
    """A second picture, a picture as subtitles, an attachment and unknown metadata."""
    rich = tmp_path / "rich.mkv"
    (tmp_path / "a.ass").write_text(
        "[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name, Fontname\n"
        "Style: Default,Arial\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
        "Dialogue: 0,0:00:00.20,0:00:01.00,Default,Hello\n"
    )
    ffmpeg(
        *("-i", films / "b.mp4", "-i", films / "plain.mp4", "-i", tmp_path / "a.ass"),
        *("-f", "lavfi", "-i", "color=s=96x64:d=1"),
        *("-map", "0:v", "-map", "1:v", "-map", "2:s", "-map", "2:s", "-c", "copy"),
        *("-c:s:0", "ass", "-c:s:1", "copy", "-metadata", "lens=wide"),
        *("-attach", tmp_path / "a.ass", "-metadata:s:t:0", "mimetype=font/ttf"),
        rich,
    )
    event, result = await score(tmp_path, rich)

    with av.open(str(result)) as container:
        assert [s.type for s in container.streams] == ["video", "audio", "subtitle", "subtitle"]
    lost = "a second video stream (h264), an attachment (a.ass), metadata (lens)"
    assert event.warnings == (
        f"not kept of the video: {lost}",
        "the subtitles are kept as text without their styles",
    )
