"""Encodes audio as MP3 files like the model's, and reads their comments.

32 kHz stereo at a constant 96 kb/s, with the header from which a decoder knows how much padding
to cut, so that a clip of whole seconds decodes to a whole number of samples. A comment in the
file carries the provider's own metadata.

Shapes: float32 `(channels, samples)`. Units: samples at 32 kHz. I/O: memory only, but encoding
blocks: call it in a thread.
"""

import io
from fractions import Fraction

import av
import numpy as np

from shared.media.decode import ONLY_THIS_FILE, decode
from shared.media.samples import CLIP_RATE_HZ, Audio

CONTENT_TYPE = "audio/mpeg"
_BIT_RATE = 96_000
_FRAME_SAMPLES = 1152  # of MP3 at this rate; only the last frame may be shorter
_COMMENT = "comment"


def encode(audio: Audio, *, comment: str = "", bit_rate: int = _BIT_RATE) -> bytes:
    """Return `audio` as an MP3 file, clamped to full scale; equal audio gives equal bytes."""
    clamped = np.ascontiguousarray(np.clip(audio, -1.0, 1.0))
    buffer = io.BytesIO()  # seekable: the header with the padding is written last
    with av.open(buffer, "w", format="mp3") as container:
        if comment:
            container.metadata[_COMMENT] = comment
        stream = container.add_stream("libmp3lame", rate=CLIP_RATE_HZ)
        stream.layout = "stereo"
        stream.format = "fltp"
        stream.bit_rate = bit_rate
        for start in range(0, clamped.shape[1], _FRAME_SAMPLES):
            block = np.ascontiguousarray(clamped[:, start : start + _FRAME_SAMPLES])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate = CLIP_RATE_HZ
            frame.pts = start
            frame.time_base = Fraction(1, CLIP_RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def comment_of(data: bytes) -> str:
    """Return the comment of an MP3 file; "" if it has none or cannot be read."""
    try:
        with av.open(io.BytesIO(data), "r", format="mp3", options=ONLY_THIS_FILE) as container:
            return str(container.metadata.get(_COMMENT, ""))
    except av.FFmpegError:
        return ""


def recoded(audio: Audio) -> Audio:
    """Return `audio` as a model's codec returns it: the same music, other samples.

    A slight tilt of the highs and one pass through the codec; nothing moves in time.
    """
    count = audio.shape[1]
    hz = np.fft.rfftfreq(count, 1 / CLIP_RATE_HZ)
    tilt = 1 - 0.2 * (hz / (hz + 3_000)) ** 2
    tilted = np.fft.irfft(np.fft.rfft(audio) * tilt, count).astype(np.float32)
    return decode(encode(tilted), rate_hz=CLIP_RATE_HZ)[:, :count]
