"""Which part of a style sample is continued, and which samples are rejected."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import MediaError
from shared.media.samples import CLIP_RATE_HZ, Audio
from shared.media.style_sample import LENGTH_S_MAX, Style, read_style
from tests.support.style_audio import a_song, audio_file, quiet

KINDS = (("mp3", "libmp3lame"), ("wav", "pcm_s16le"), ("flac", "flac"), ("ogg", "libopus"))
MORE_KINDS = (("mp4", "aac"), ("adts", "aac"), ("aiff", "pcm_s16be"), ("webm", "libopus"))


def read(
    data: bytes, folder: Path, *, window_s: int = 5, length_s_max: int = LENGTH_S_MAX
) -> Style:
    """Return the sample in `data`."""
    path = folder / "sample"
    path.write_bytes(data)
    return read_style(path, window_s=window_s, length_s_max=length_s_max)


def alike(first: Audio, second: Audio) -> float:
    """Return the correlation of two pieces of audio, 1.0 at most."""
    return float(np.vdot(first, second) / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize(("container", "codec"), [*KINDS, *MORE_KINDS])
def test_window_is_the_last_whole_seconds(tmp_path: Path, container: str, codec: str) -> None:
    """In any format, within the padding of the encoder."""
    song = a_song(7.4)
    style = read(audio_file(song, container=container, codec=codec), tmp_path)

    assert style.window_s == 5
    assert style.content_type.startswith("audio/")
    assert abs(style.duration_s - 7.4) < 0.1
    slack = 3000  # the encoder's padding at the end
    field = np.concatenate([song, quiet(0.2)], axis=1)
    ends = range(song.shape[1] - slack, song.shape[1] + slack, 1)
    middle = style.window[:, 64_000:65_000]
    best = max(alike(middle, field[:, end - 96_000 : end - 95_000]) for end in ends)
    assert best > 0.98


def test_window_has_at_most_the_whole_seconds_of_the_sample(tmp_path: Path) -> None:
    """2.9 s have two."""
    assert read(audio_file(a_song(2.9)), tmp_path).window_s == 2
    assert read(audio_file(a_song(2.9)), tmp_path, window_s=1).window_s == 1


def test_trailing_silence_is_skipped(tmp_path: Path) -> None:
    """The window ends with the sound, however long the file is."""
    song = a_song(6.0)
    long = np.concatenate([song, quiet(9.0)], axis=1)

    style = read(audio_file(long), tmp_path)

    assert style.duration_s == 15.0
    assert style.window_s == 5
    ends = {  # to within the hundredth of a second in which the sound ends
        late: alike(style.window[:, -16_000 : 160_000 - late], song[:, late - 16_000 :])
        for late in range(1, 321)
    }
    assert max(ends.values()) > 0.99


def test_pause_inside_the_window_is_kept(tmp_path: Path) -> None:
    """Music has rests."""
    song = np.concatenate([a_song(4.0), quiet(1.0), a_song(2.0)], axis=1)

    window = read(audio_file(song), tmp_path).window

    assert np.abs(window[:, 66_000:94_000]).max() < 1e-4
    assert alike(window[:, -60_000:], song[:, -60_000:]) > 0.9


@settings(max_examples=15, deadline=None)
@given(
    sounds=st.floats(min_value=1.0, max_value=9.0),
    rests=st.floats(min_value=0.0, max_value=4.0),
    window_s=st.integers(min_value=1, max_value=20),
)
def test_every_window_is_whole_seconds_of_sound(
    tmp_path_factory: pytest.TempPathFactory, sounds: float, rests: float, window_s: int
) -> None:
    """Never empty, never longer than requested or than the sound."""
    song = np.concatenate([a_song(sounds), quiet(rests)], axis=1)
    style = read(audio_file(song), tmp_path_factory.mktemp("s"), window_s=window_s)

    assert style.window.shape[1] == style.window_s * CLIP_RATE_HZ
    assert 1 <= style.window_s <= window_s
    assert style.window_s <= int(sounds + 0.011)  # silence is measured per hundredth
    assert style.window_s >= min(window_s, int(sounds - 0.001))


def test_sample_is_converted_to_the_model_format(tmp_path: Path) -> None:
    """The file's own format is reported; the window is stereo."""
    style = read(audio_file(a_song(3.0)[:1], layout="mono", rate_hz=32_000), tmp_path)

    assert (style.channels, style.sample_rate_hz) == (1, 32_000)
    assert style.window.shape == (2, 3 * CLIP_RATE_HZ)


def _playlist(kind: str) -> bytes:
    return {
        "hls": b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile x",
    }[kind]


def _wav(*, tag: int, rate_hz: int) -> bytes:
    """Return a mono 16-bit WAV whose header has this codec and rate."""
    sound = bytes(range(256)) * 40
    form = struct.pack("<HHIIHH", tag, 1, rate_hz, 2 * rate_hz, 2, 16)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(sound)) + sound
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is no music\n" * 50, "not audio"),
    "hls": (_playlist("hls"), "not audio"),
    "concat": (_playlist("concat"), "not audio"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(500), "not audio"),
    "a header alone": (b"ID3\x04\x00\x00\x00\x00\x00\x00", "not audio|empty"),
    "a broken song": (b"OggS" + bytes(range(256)) * 8, "damaged"),
    "an unknown codec": (_wav(tag=0x7777, rate_hz=44_100), "unsupported audio codec"),
    "20 samples a second": (_wav(tag=1, rate_hz=20), "has 20 samples per second"),
    "half a second": (audio_file(a_song(0.5)), r"plays for 0\.50 s; at least 1 s"),
    "far too loud": (audio_file(a_song(2.0) * 1e20, codec="pcm_f32le"), "far beyond full scale"),
    "silence": (audio_file(quiet(4.0)), "is silent: send"),
    "a click and silence": (
        audio_file(np.concatenate([a_song(0.4), quiet(5.0)], axis=1)),
        r"silent after its first 0\.4",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_sample_is_rejected_with_advice(tmp_path: Path, name: str) -> None:
    """The message is for the user."""
    data, message = BAD[name]

    with pytest.raises(MediaError, match=message) as caught:
        read(data, tmp_path)
    assert any(word in str(caught.value) for word in ("send", "convert"))


def test_leading_tags_are_skipped(tmp_path: Path) -> None:
    """Some programs write a second one before the first."""
    song = audio_file(a_song(3.0), container="mp3", codec="libmp3lame")
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)

    assert read(tag + tag + song, tmp_path).content_type == "audio/mpeg"


def test_video_without_sound_is_rejected_as_such(tmp_path: Path) -> None:
    """The container is known, but has no audio stream."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for _ in range(30):
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))

    with pytest.raises(MediaError, match="the file has no audio stream"):
        read(target.getvalue(), tmp_path)


def test_endless_file_is_rejected(tmp_path: Path) -> None:
    """A small file may decode to days."""
    assert LENGTH_S_MAX == 3600

    with pytest.raises(MediaError, match="plays for more than 3 s: cut"):
        read(audio_file(a_song(4.0)), tmp_path, length_s_max=3)
