"""Encodes clips as files, in the model's form or in a wrong one.

========================  ===============================================================
`window`                  as the model returns it: the window, then the new music
`no_window`               the new music only; shorter by the window
`cumulative`              the whole input up to the window's end, then the new music
`too_short`               half of the clip
`silent`                  silence of the right length
`silent_tail`             the last 40 % are silent
`clipped`                 four times too loud, clipped at full scale
`mono`                    one channel
`wrong_rate`              44.1 kHz
`no_delay_header`         an MP3 without the header that declares its encoder delay
`not_audio`               bytes that cannot be decoded
========================  ===============================================================

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. Encoding blocks.
"""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from shared.media.samples import CLIP_RATE_HZ, Audio, rms

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
_MP3_BIT_RATE = 96_000  # ffmpeg's default for 32 kHz stereo, and so the model's
_BLOCK_SAMPLES = 1152  # an MP3 frame: the only length that the encoder takes before the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAudio:
    """A clip before encoding."""

    audio: Audio  #: the window first
    window_samples: int
    source: Audio | None  #: the input up to the window's end
    comment: str = ""  #: metadata for a later continuation


def encode_shape(clip: ClipAudio, *, shape: str, file_format: str) -> bytes:
    """Return the file of a clip in one of `SHAPES`."""
    assert shape in SHAPES, "validated with the fault"
    if shape == "not_audio":
        return b"<html><body>Bad gateway</body></html>" * 8
    return encode(
        _apply_shape(clip, shape),
        file_format=file_format,
        comment=clip.comment,
        rate_hz=_OTHER_RATE_HZ if shape == "wrong_rate" else CLIP_RATE_HZ,
        delay_header=shape != "no_delay_header",
    )


def _apply_shape(clip: ClipAudio, shape: str) -> Audio:
    audio, samples = clip.audio, clip.audio.shape[1]
    match shape:
        case "no_window":
            audio = audio[:, clip.window_samples :]
        case "cumulative":
            audio = _cumulative(clip)
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


def _cumulative(clip: ClipAudio) -> Audio:
    """Return the source before the window at the clip's level, then the clip."""
    if clip.source is None:
        return clip.audio
    before = clip.source[:, : clip.source.shape[1] - clip.window_samples]
    source_rms = rms(clip.source[:, before.shape[1] :])
    gain = rms(clip.audio[:, : clip.window_samples]) / source_rms if source_rms > 0 else 1.0
    return np.concatenate([before * np.float32(gain), clip.audio], axis=1)


def encode(
    audio: Audio,
    *,
    file_format: str,
    comment: str = "",
    rate_hz: int = CLIP_RATE_HZ,
    delay_header: bool = True,
) -> bytes:
    """Return `audio` (mono or stereo, 32 kHz) as an MP3 or WAV file."""
    layout = "stereo" if audio.shape[0] > 1 else "mono"
    options = {} if delay_header else {"write_xing": "0"}
    buffer = io.BytesIO()  # seekable: headers with lengths are written last
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
        frame.sample_rate = CLIP_RATE_HZ
        frame.pts, frame.time_base = 0, Fraction(1, CLIP_RATE_HZ)
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
