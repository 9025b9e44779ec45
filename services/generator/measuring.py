"""Measuring: a clip's bytes as `quality` judges them: the sound, and what the file says of itself.

Shapes: float32 `(channels, samples)` at 48 kHz. I/O: memory only, but decoding blocks: call it
in a thread.
"""

import io
from dataclasses import dataclass

import av

from shared.audio import INVALID_OUTPUT, decode
from shared.errors import MediaError
from shared.media import Audio


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A clip, decoded."""

    audio: Audio
    rate_hz: int  #: of the file; the sound was brought to ours
    channels: int  #: of the file


def measure(data: bytes) -> Measured:
    """The clip in `data`.

    Raises:
        MediaError: it cannot be decoded.
    """
    audio = decode(data)
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            stream = container.streams.audio[0]
            return Measured(audio=audio, rate_hz=stream.rate, channels=stream.channels)
    except av.FFmpegError as error:
        raise MediaError(f"{INVALID_OUTPUT}: {error.strerror}") from error
