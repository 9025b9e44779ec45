"""Shapes: sound as files, and the ways in which a clip can be other than it should.

========================  ===============================================================
`window`                  as the model sends it: the window first, then what is new
`no_window`               what is new alone; shorter by the window
`cumulative`              the whole input up to the window's end, then what is new
`too_short`               half of it
`silent`                  nothing, in the right length
`silent_tail`             its last two fifths are silence
`clipped`                 four times too loud, cut off at full scale
`mono`                    one channel
`wrong_rate`              44.1 kHz
`no_delay_header`         an MP3 that does not say how much of its head is padding
`not_audio`               bytes that nobody can decode
========================  ===============================================================

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. Pure, but coding blocks.
"""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from services.generator.providers.synth.voices import RATE_HZ
from shared.media.samples import Audio, rms

SHAPES = (
    "window",
    "no_window",
    "cumulative",
    "too_short",
    "silent",
    "silent_tail",
    "clipped",
    "mono",
    "wrong_rate",
    "no_delay_header",
    "not_audio",
)
CONTENT_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_OTHER_RATE_HZ = 44_100
_TOO_LOUD = np.float32(4.0)
_SILENT_TAIL = 0.4
_MP3_BIT_RATE = 96_000  # ffmpeg's own choice for 32 kHz stereo, and so the model's
_BLOCK_SAMPLES = 1152  # an MP3 frame: the encoder takes no other length but at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAudio:
    """A clip before it is a file."""

    audio: Audio  #: the window first
    window_samples: int
    source: Audio | None  #: the input up to the window's end
    comment: str = ""  #: what its maker wants to find again


def encode_shape(sound: ClipAudio, *, shape: str, file_format: str) -> bytes:
    """The file of a clip in one of `SHAPES`."""
    assert shape in SHAPES, "checked when the fault was made"
    if shape == "not_audio":
        return b"<html><body>Bad gateway</body></html>" * 8
    return encode(
        _shaped(sound, shape),
        file_format=file_format,
        comment=sound.comment,
        rate_hz=_OTHER_RATE_HZ if shape == "wrong_rate" else RATE_HZ,
        delay_header=shape != "no_delay_header",
    )


def _shaped(sound: ClipAudio, shape: str) -> Audio:
    audio, samples = sound.audio, sound.audio.shape[1]
    match shape:
        case "no_window":
            audio = audio[:, sound.window_samples :]
        case "cumulative":
            audio = _cumulative(sound)
        case "too_short":
            audio = audio[:, : samples // 2]
        case "silent":
            audio = np.zeros_like(audio)
        case "silent_tail":
            audio = audio.copy()
            audio[:, int(samples * (1 - _SILENT_TAIL)) :] = 0
        case "clipped":
            audio = np.clip(audio * _TOO_LOUD, np.float32(-1), np.float32(1))
        case "mono":
            audio = audio.mean(axis=0, keepdims=True, dtype=np.float32)
        case _:
            pass
    return audio


def _cumulative(sound: ClipAudio) -> Audio:
    """Everything that was there, at the clip's level, and then the clip."""
    if sound.source is None:
        return sound.audio
    before = sound.source[:, : sound.source.shape[1] - sound.window_samples]
    was = rms(sound.source[:, before.shape[1] :])
    level = rms(sound.audio[:, : sound.window_samples]) / was if was > 0 else 1.0
    return np.concatenate([before * np.float32(level), sound.audio], axis=1)


def encode(
    audio: Audio,
    *,
    file_format: str,
    comment: str = "",
    rate_hz: int = RATE_HZ,
    delay_header: bool = True,
) -> bytes:
    """`audio`, one or two channels at 32 kHz, as an MP3 or WAV file at `rate_hz`."""
    layout = "stereo" if audio.shape[0] > 1 else "mono"
    options = {} if delay_header else {"write_xing": "0"}
    buffer = io.BytesIO()  # can be sought in: headers with lengths are written last
    with av.open(buffer, "w", format=file_format, options=options) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = _stream(container, file_format, rate_hz)
        stream.layout = layout
        resampler = av.AudioResampler(
            format=stream.format, layout=layout, rate=rate_hz, frame_size=_BLOCK_SAMPLES
        )
        clamped = np.ascontiguousarray(np.clip(audio, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(clamped, format="fltp", layout=layout)
        frame.sample_rate = RATE_HZ
        frame.pts, frame.time_base = 0, Fraction(1, RATE_HZ)
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _stream(container: OutputContainer, file_format: str, rate_hz: int) -> AudioStream:
    if file_format == "mp3":
        stream = container.add_stream("libmp3lame", rate=rate_hz)
        stream.bit_rate = _MP3_BIT_RATE
        stream.format = "fltp"
        return stream
    plain = container.add_stream("pcm_s16le", rate=rate_hz)
    plain.format = "s16"
    return plain
