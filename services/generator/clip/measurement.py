"""Measuring: a clip's bytes as `quality` judges them: the sound, and what the file says of itself.

Shapes: float32 `(channels, samples)` at 48 kHz. I/O: memory only, but decoding blocks: call it
in a thread.
"""

import io
from dataclasses import dataclass

import av
from av.audio.stream import AudioStream

from shared.errors import MediaError
from shared.media.decode import INVALID_OUTPUT, decode
from shared.media.samples import SAMPLE_RATE_HZ, Audio

_MP3_DELAY_SAMPLES = 1105  # LAME's 576 and a decoder's 529, at the file's own rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A clip, decoded."""

    audio: Audio
    rate_hz: int  #: of the file; the sound was brought to ours
    channels: int  #: of the file
    #: of nothing in front of the music, because the file does not tell how much to cut off
    padding_samples: int


def measure(data: bytes) -> Measured:
    """The clip in `data`.

    Raises:
        MediaError: it cannot be decoded.
    """
    audio = decode(data)
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            stream = container.streams.audio[0]
            return Measured(
                audio=audio,
                rate_hz=stream.rate,
                channels=stream.channels,
                padding_samples=_padding(stream),
            )
    except av.FFmpegError as error:
        raise MediaError(f"{INVALID_OUTPUT}: {error.strerror}") from error


def _padding(stream: AudioStream) -> int:
    """What the decoder left in front; a stream that starts later than 0 told its padding."""
    told = bool(stream.start_time)
    if told or not stream.codec_context.name.startswith("mp3"):
        return 0
    return round(_MP3_DELAY_SAMPLES * SAMPLE_RATE_HZ / stream.rate)
