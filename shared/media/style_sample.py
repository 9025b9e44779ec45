"""Reads the end of a style sample: the audio that the first scene of a run continues.

It is the last whole seconds with sound: trailing silence cannot be continued. The container is
detected from the first bytes and its demuxer is fixed, so a playlist named like a song is rejected
before any demuxer reads it, and no demuxer opens what a file refers to. A file is decoded once and
only its end is kept, however long it is.

Shapes: float32 `(channels, samples)`. Units: seconds; samples at `CLIP_RATE_HZ`. I/O: reads
one local file, and decoding blocks: call it in a thread.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from shared.errors import MediaError
from shared.media.decode import audio_demuxer
from shared.media.paths import media_path
from shared.media.samples import CLIP_RATE_HZ, SILENT_RMS, Audio, rms

STYLE_S_MIN = 1  # windows are whole seconds
LENGTH_S_MAX = 3600  # a song, not an archive
RATE_HZ_MIN = 4000  # lower rates are not music, and one frame may decode to gigabytes
SAMPLE_MAX = 1000.0  # 60 dB over full scale: not music, and it would overflow
_STEP_SAMPLES = CLIP_RATE_HZ // 100
_ONLY_FILES = {"protocol_whitelist": "file"}
_ADVICE = (
    "send music as MP3, WAV, FLAC, Ogg, M4A or WebM; convert it: ffmpeg -i IN -vn -b:a 192k OUT.mp3"
)
_TYPES = {
    "mov": "audio/mp4",
    "matroska": "audio/x-matroska",
    "wav": "audio/wav",
    "aiff": "audio/aiff",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "aac": "audio/aac",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A usable style sample, measured."""

    demuxer: str
    channels: int  #: of the file
    sample_rate_hz: int  #: of the file
    duration_s: float  #: of the audio stream
    window: Audio  #: its last whole seconds with sound, stereo

    @property
    def content_type(self) -> str:
        """Return the media type of the file."""
        return _TYPES[self.demuxer]

    @property
    def window_s(self) -> int:
        """Return the length of the window in seconds."""
        return int(self.window.shape[1]) // CLIP_RATE_HZ


def read_style(path: Path, *, window_s: int, length_s_max: int = LENGTH_S_MAX) -> Style:
    """Return the sample at `path`, with a window of up to `window_s` seconds.

    Raises:
        MediaError: no audio, silent, too short, too long or damaged; the message is for users.
    """
    demuxer = _demuxer_of(path)
    tail = _Tail(window_s * CLIP_RATE_HZ, length_s_max=length_s_max)
    try:
        with av.open(
            media_path(path), format=demuxer, options=_ONLY_FILES, metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                raise MediaError(f"the file has no audio stream; {_ADVICE}")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise MediaError(f"unsupported audio codec; {_ADVICE}")
            channels, rate_hz = stream.channels, stream.rate
            for block in _blocks(container):
                tail.add(block)
    except (av.FFmpegError, ValueError) as error:  # ValueError: the channel layout changes
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"the file is damaged or not audio ({reason}); {_ADVICE}") from error
    return Style(
        demuxer=demuxer,
        channels=channels,
        sample_rate_hz=rate_hz,
        duration_s=round(tail.samples / CLIP_RATE_HZ, 3),
        window=_window(tail, window_s),
    )


class _Tail:
    """The last samples of a stream, up to its last sound."""

    def __init__(self, samples_max: int, *, length_s_max: int) -> None:
        self._length_s_max = length_s_max
        self._kept = _Blocks(samples_max + CLIP_RATE_HZ)  # its last block may end in silence
        self._silent = _Blocks(samples_max)  # since the last sound
        self.samples = 0

    def add(self, block: Audio) -> None:
        """Add the next block."""
        self.samples += block.shape[1]
        if self.samples > self._length_s_max * CLIP_RATE_HZ:
            raise MediaError(
                f"plays for more than {self._length_s_max} s: cut out the relevant part"
            )
        if not np.isfinite(block).all():
            raise MediaError(f"contains samples that are not finite; {_ADVICE}")
        if np.abs(block).max(initial=0.0) > SAMPLE_MAX:
            raise MediaError(f"contains samples far beyond full scale; {_ADVICE}")
        self._silent.add(block)
        if rms(block) >= SILENT_RMS:
            for earlier in self._silent.pop_all():
                self._kept.add(earlier)

    def sounding(self) -> Audio:
        """Return the kept samples up to the last hundredth of a second with sound."""
        whole = np.concatenate([np.zeros((2, 0), np.float32), *self._kept.pop_all()], axis=1)
        for end in range(whole.shape[1], 0, -_STEP_SAMPLES):
            if rms(whole[:, max(0, end - _STEP_SAMPLES) : end]) >= SILENT_RMS:
                return whole[:, :end]
        return whole[:, :0]


class _Blocks:
    """The last blocks of a stream: at least `samples_max` samples, less than a block more."""

    def __init__(self, samples_max: int) -> None:
        self._max = samples_max
        self._blocks: deque[Audio] = deque()
        self._samples = 0

    def add(self, block: Audio) -> None:
        """Append a block; drop the oldest ones that are not needed."""
        self._blocks.append(block)
        self._samples += block.shape[1]
        while self._samples - self._blocks[0].shape[1] >= self._max:
            self._samples -= self._blocks.popleft().shape[1]

    def pop_all(self) -> tuple[Audio, ...]:
        """Remove and return all blocks."""
        blocks, self._samples = tuple(self._blocks), 0
        self._blocks.clear()
        return blocks


def _window(tail: _Tail, seconds_max: int) -> Audio:
    """Return the last whole seconds with sound."""
    least = STYLE_S_MIN * CLIP_RATE_HZ
    if tail.samples < least:
        raise MediaError(
            f"plays for {tail.samples / CLIP_RATE_HZ:.2f} s; at least {STYLE_S_MIN} s is needed, "
            "send a longer one"
        )
    sounding = tail.sounding()
    sound_s = sounding.shape[1] // CLIP_RATE_HZ
    window = sounding[:, sounding.shape[1] - min(sound_s, seconds_max) * CLIP_RATE_HZ :]
    if sounding.shape[1] == 0 or (sound_s and rms(window) < SILENT_RMS):
        raise MediaError("is silent: send one with sound")
    if sound_s < STYLE_S_MIN:
        raise MediaError(
            f"is silent after its first {sounding.shape[1] / CLIP_RATE_HZ:.2f} s; at least "
            f"{STYLE_S_MIN} s is needed, send one with more sound"
        )
    return np.ascontiguousarray(window)


def _blocks(container: InputContainer) -> Iterator[Audio]:
    """Yield the first audio stream, stereo at `CLIP_RATE_HZ`."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=CLIP_RATE_HZ)
    for frame in container.decode(audio=0):
        if frame.sample_rate < RATE_HZ_MIN:
            raise MediaError(
                f"has {frame.sample_rate} samples per second; at least {RATE_HZ_MIN} are needed, "
                "send a better copy"
            )
        frame.pts = None  # the resampler counts its own
        for block in resampler.resample(frame):
            yield block.to_ndarray().astype(np.float32, copy=False)
    for block in resampler.resample(None):
        yield block.to_ndarray().astype(np.float32, copy=False)


def _demuxer_of(path: Path) -> str:
    with path.open("rb") as file:
        demuxer = audio_demuxer(file)
        if demuxer is not None:
            return demuxer
        file.seek(0)
        if not file.read(1):
            raise MediaError(f"the file is empty; {_ADVICE}")
    raise MediaError(f"is not audio, or an unsupported format; {_ADVICE}")
