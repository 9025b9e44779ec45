"""Decodes compressed audio to samples and rejects unusable clips.

Decoding is gapless: the encoder's delay and padding, as given in the file's header, are removed,
so a whole-second clip is a whole number of seconds long. An MP3 without that header decodes
longer; callers that need the position of its music find it by correlation.

The container is detected from the first bytes and its demuxer is fixed: a playlist named like a
clip is rejected before a demuxer opens what it refers to.

Shapes: float32 `(channels, samples)`. Units: samples at 48 kHz. I/O: memory only, but decoding
blocks: call it in a thread.
"""

import io
from typing import BinaryIO

import av
import numpy as np

from shared.errors import MediaError
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, Audio

INVALID_OUTPUT = "Invalid audio output format"
LENGTH_S_MAX = 3600  # clips last seconds; anything longer is a decompression bomb
ONLY_THIS_FILE = {"protocol_whitelist": "file"}  #: no URL that the file names
_HEAD_BYTES = 512
_MAGIC = (  # demuxer, offset, bytes
    ("mov", 4, b"ftyp"),
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),
    ("wav", 8, b"WAVE"),
    ("aiff", 8, b"AIFF"),
    ("aiff", 8, b"AIFC"),
    ("flac", 0, b"fLaC"),
    ("ogg", 0, b"OggS"),
)
_ID3_BYTES = 10  # of a tag's header
_ID3_TAGS_MAX = 8
_FRAME_BYTE = 0xFF  # first byte of every MP3 and AAC frame
_MP3_SYNC = 0xE0  # the rest of a frame's first eleven bits
_ADTS_LAYER = 0x06  # zero in AAC, otherwise like MP3


def decode(
    data: bytes, *, rate_hz: int = SAMPLE_RATE_HZ, length_s_max: int = LENGTH_S_MAX
) -> Audio:
    """Return the first audio stream of `data` as stereo at `rate_hz`.

    Raises:
        MediaError: not audio, truncated, or longer than `length_s_max`.
    """
    demuxer = audio_demuxer(io.BytesIO(data))
    if demuxer is None:
        raise MediaError(f"{INVALID_OUTPUT}: {'not audio' if data else 'the file is empty'}")
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate_hz)
    blocks: list[Audio] = []
    total = 0
    try:
        with av.open(
            io.BytesIO(data), "r", format=demuxer, options=ONLY_THIS_FILE, metadata_errors="replace"
        ) as container:
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


def length_of(data: bytes, *, length_s_max: int = LENGTH_S_MAX) -> int:
    """Return the samples of a clip at 48 kHz, decoded.

    Raises:
        MediaError: as `decode`.
    """
    return int(decode(data, length_s_max=length_s_max).shape[1])


def decoded_bytes(length_s: int) -> int:
    """Return the memory of decoded audio at 48 kHz."""
    return length_s * SAMPLE_RATE_HZ * CHANNELS * np.dtype(np.float32).itemsize


def audio_demuxer(file: BinaryIO) -> str | None:
    """Return FFmpeg's demuxer for an audio file, from its first bytes; None if it is none."""
    head, at = file.read(_HEAD_BYTES), 0
    for _ in range(_ID3_TAGS_MAX):  # tags may precede any format, several in a row
        if not head.startswith(b"ID3") or len(head) < _ID3_BYTES:
            break
        size = sum(part << shift for part, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        at += _ID3_BYTES + size
        file.seek(at)
        head = file.read(_HEAD_BYTES)
    for demuxer, at, magic in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return demuxer
    if len(head) > 1 and head[0] == _FRAME_BYTE and head[1] & _MP3_SYNC == _MP3_SYNC:
        return "mp3" if head[1] & _ADTS_LAYER else "aac"
    return None


def _samples(block: av.AudioFrame) -> Audio:
    return block.to_ndarray().astype(np.float32, copy=False)  # planar float: a row per channel
