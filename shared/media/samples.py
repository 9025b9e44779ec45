"""Audio arrays, and the conversion between seconds and samples.

Shapes: audio is float32 `(channels, samples)`, full scale 1.0, stereo.
Units: lengths are whole samples per channel at `SAMPLE_RATE_HZ`; seconds only at the edges.
Pure.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]  #: `(channels, samples)`, full scale 1.0

#: the rate of video sound; 3/2 of `CLIP_RATE_HZ`, so clips convert exactly
SAMPLE_RATE_HZ = 48_000
CLIP_RATE_HZ = 32_000  #: of every provider's clips, and of the music sent to it: MusicGen's
CHANNELS = 2
#: less is silence: MusicGen does not normalise it, and it cannot be continued
SILENT_RMS = 2e-3
TRACK_CONTENT_TYPE = "audio/mpeg"
VIDEO_CONTENT_TYPE = "video/mp4"


def exact_seconds(seconds: float | str | Fraction) -> Fraction:
    """Return `seconds` as the decimal that was written: 1.7 is exactly 17/10."""
    return seconds if isinstance(seconds, Fraction) else Fraction(str(seconds))


def samples_at(seconds: float | Fraction, *, rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Return the sample nearest to a time, rounding halves up."""
    return int((exact_seconds(seconds) * rate_hz * 2 + 1) // 2)


def seconds_at(samples: int, *, rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """Return the time of a sample, in seconds."""
    return samples / rate_hz


def silence(samples: int) -> Audio:
    """Return `samples` of silence, stereo."""
    return np.zeros((CHANNELS, samples), dtype=np.float32)


def rms(audio: Audio) -> float:
    """Return the root mean square over all channels, full scale 1.0; 0.0 if empty."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0
