"""Clips decode gapless, stereo and at one rate; other data is rejected."""

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import MediaError
from shared.media.decode import LENGTH_S_MAX, decode
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms
from tests.support.audio_builders import mp3


def a_wave(samples: np.ndarray[tuple[int, int], np.dtype[np.int16]], *, rate_hz: int) -> bytes:
    """Return a WAV file of these samples, channels first."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.ascontiguousarray(samples.T).tobytes())
    return target.getvalue()


def a_tone(seconds: float, *, rate_hz: int = 32_000) -> Audio:
    """Return a tone: 440 Hz left, 550 Hz right."""
    moments = np.arange(int(seconds * rate_hz)) / rate_hz
    sound = [0.3 * np.sin(2 * np.pi * pitch * moments) for pitch in (440, 550)]
    return np.array(sound, dtype=np.float32)


@pytest.mark.parametrize("seconds", [1, 3, 11])
def test_clip_of_whole_seconds_decodes_to_whole_seconds(seconds: int) -> None:
    """MP3's delay and padding are removed; 32 kHz becomes 48 kHz to the sample."""
    clip = decode(mp3(a_tone(seconds)))

    assert clip.shape == (2, seconds * SAMPLE_RATE_HZ)
    assert clip.dtype == np.float32


def test_decoding_does_not_shift_the_music() -> None:
    """A shift of a few milliseconds would be audible at every seam."""
    clip = decode(mp3(a_tone(2)))[:, 4_800:-4_800]
    shifts = range(-50, 51)
    expected = a_tone(2, rate_hz=SAMPLE_RATE_HZ)
    apart = [rms(clip - np.roll(expected, n, axis=1)[:, 4_800:-4_800]) for n in shifts]

    assert shifts[int(np.argmin(apart))] == 0


def test_decoder_returns_the_requested_rate() -> None:
    """The clip's own rate returns its own samples."""
    assert decode(mp3(a_tone(1)), rate_hz=32_000).shape == (2, 32_000)


def test_mono_becomes_stereo() -> None:
    """A model may return mono."""
    mono = (8000 * np.sin(np.arange(48_000) / 20)).astype(np.int16)[np.newaxis]
    clip = decode(a_wave(mono, rate_hz=SAMPLE_RATE_HZ))

    assert clip.shape == (2, 48_000)
    np.testing.assert_array_equal(clip[0], clip[1])


@pytest.mark.parametrize(
    "data", [b"", b"no audio at all", b"\x00" * 5000, b"ID3", b"<html></html>"]
)
def test_other_data_is_rejected(data: bytes) -> None:
    """With the message that clients know."""
    with pytest.raises(MediaError, match=r"^Invalid audio output format"):
        decode(data)


def test_truncated_clip_is_shorter_or_rejected() -> None:
    """The caller checks its length."""
    whole = mp3(a_tone(3))
    clip = decode(whole[: len(whole) // 2])

    assert 0 < clip.shape[1] < 2 * SAMPLE_RATE_HZ


def test_endless_clip_is_rejected_before_it_fills_the_memory() -> None:
    """The limit is an hour; one second in this test."""
    assert LENGTH_S_MAX == 3600
    with pytest.raises(MediaError, match="longer than 1 s"):
        decode(mp3(a_tone(3)), length_s_max=1)


@given(data=st.binary(max_size=400), at=st.integers(0, 2000))
def test_damaged_clip_decodes_or_raises_media_error(data: bytes, at: int) -> None:
    """The bytes come from outside."""
    damaged = bytearray(_WHOLE)
    damaged[at : at + len(data)] = data
    try:
        clip = decode(bytes(damaged))
    except MediaError:
        return
    assert clip.shape[0] == 2
    assert np.isfinite(clip).all()


_WHOLE = mp3(a_tone(0.5))


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"RIFF\x00\x00\x00\x00AVI LIST",
    ],
)
def test_a_playlist_or_another_container_is_not_opened(data: bytes) -> None:
    """The demuxer follows from the first bytes; no other one reads the file."""
    with pytest.raises(MediaError, match="Invalid audio output format: not audio"):
        decode(data)
