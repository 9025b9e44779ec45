"""Decodes compressed audio to samples and rejects unusable clips.

Decoding is gapless: the encoder's delay and padding, as given in the file's header, are removed,
so a whole-second clip is a whole number of seconds long. An MP3 without that header decodes
longer; callers that need the position of its music find it by correlation.

Shapes: float32 `(channels, samples)`. Units: samples at 48 kHz. I/O: memory only, but decoding
blocks: call it in a thread.
"""

import io

import av
import numpy as np

from shared.errors import MediaError
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, Audio

INVALID_OUTPUT = "Invalid audio output format"
LENGTH_S_MAX = 3600  # clips last seconds; anything longer is a decompression bomb


def decode(
    data: bytes, *, rate_hz: int = SAMPLE_RATE_HZ, length_s_max: int = LENGTH_S_MAX
) -> Audio:
    """Return the first audio stream of `data` as stereo at `rate_hz`.

    Raises:
        MediaError: not audio, truncated, or longer than an hour.
    """
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate_hz)
    blocks: list[Audio] = []
    total = 0
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MediaError(f"{INVALID_OUTPUT}: no audio stream")
            for frame in container.decode(audio=0):
                frame.pts = None  # the resampler counts its own
                for block in resampler.resample(frame):
                    blocks.append(_samples(block))
                    total += block.samples
                if total > length_s_max * rate_hz:
                    raise MediaError(f"{INVALID_OUTPUT}: longer than {length_s_max} s")
            blocks.extend(_samples(block) for block in resampler.resample(None))
    except av.FFmpegError as error:
        raise MediaError(f"{INVALID_OUTPUT}: {error.strerror}") from error
    if not blocks:
        raise MediaError(f"{INVALID_OUTPUT}: no audio samples")
    audio = np.concatenate(blocks, axis=1)
    assert audio.shape[0] == CHANNELS, "the resampler returns stereo"
    if not np.isfinite(audio).all():
        raise MediaError(f"{INVALID_OUTPUT}: samples that are not finite")
    return audio


def _samples(block: av.AudioFrame) -> Audio:
    return block.to_ndarray().astype(np.float32, copy=False)  # planar float: a row per channel
