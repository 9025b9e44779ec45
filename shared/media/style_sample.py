"""Styles: what of somebody's own audio the music of a run begins from.

The last whole seconds that sound: silence at the end of a file is nothing to continue. The
container is told from the first bytes and its demuxer is pinned, so a playlist with a song's
name is refused before any demuxer sees it, and none can open what the bytes name. A file is
decoded once from front to end and only its tail is kept, however long it plays.

Shapes: float32 `(channels, samples)`. Units: seconds; samples at `STYLE_RATE_HZ`. I/O: reads
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
from shared.media.samples import Audio, rms

STYLE_RATE_HZ = 32_000  # the model's own
STYLE_S_MIN = 1  # windows are whole seconds
LENGTH_S_MAX = 3600  # a song, not an archive
RATE_HZ_MIN = 4000  # less is no music, and one frame of it may unpack to gigabytes
SAMPLE_MAX = 1000.0  # 60 dB over full scale: no level of music, and no number to go on with
SILENT_RMS = 2e-3  # as for clips: the model itself takes less for silence
_STEP_SAMPLES = STYLE_RATE_HZ // 100
_HEAD_BYTES = 512
_ONLY_FILES = {"protocol_whitelist": "file"}
_WAY_OUT = (
    "send music as MP3, WAV, FLAC, Ogg, M4A or WebM; convert it: ffmpeg -i IN -vn -b:a 192k OUT.mp3"
)
_MAGIC = (  # demuxer, where, what
    ("mov", 4, b"ftyp"),
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),
    ("wav", 8, b"WAVE"),
    ("aiff", 8, b"AIFF"),
    ("aiff", 8, b"AIFC"),
    ("flac", 0, b"fLaC"),
    ("ogg", 0, b"OggS"),
)
_ID3_BYTES = 10  # of a tag's own head
_ID3_TAGS_MAX = 8
_FRAME_BYTE = 0xFF  # what every frame of MP3 and AAC begins with
_MP3_SYNC = 0xE0  # the rest of a frame's first eleven bits
_ADTS_LAYER = 0x06  # zero in AAC, which begins like MP3 otherwise
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
    """What was measured of a sample that can be continued."""

    demuxer: str
    channels: int  #: of the file
    sample_rate_hz: int  #: of the file
    duration_s: float  #: of its sound, from front to end
    window: Audio  #: its last whole seconds that sound, stereo

    @property
    def content_type(self) -> str:
        """What the file is."""
        return _TYPES[self.demuxer]

    @property
    def window_s(self) -> int:
        """Seconds of the window."""
        return int(self.window.shape[1]) // STYLE_RATE_HZ


def read_style(path: Path, *, window_s: int, length_s_max: int = LENGTH_S_MAX) -> Style:
    """The sample at `path`, with a window of `window_s`, or of what it has.

    Raises:
        MediaError: no audio, silent, too short, too long or damaged; in words for a person.
    """
    demuxer = _demuxer_of(path)
    tail = _Tail(window_s * STYLE_RATE_HZ, length_s_max=length_s_max)
    try:
        with av.open(
            str(path), format=demuxer, options=_ONLY_FILES, metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                raise MediaError(f"the file has no sound; {_WAY_OUT}")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise MediaError(f"its sound is coded in a way nobody here can read; {_WAY_OUT}")
            channels, rate_hz = stream.channels, stream.rate
            for block in _blocks(container):
                tail.add(block)
    except (av.FFmpegError, ValueError) as error:  # the latter: a layout that changes on the way
        told = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"the file is damaged, or no audio ({told}); {_WAY_OUT}") from error
    return Style(
        demuxer=demuxer,
        channels=channels,
        sample_rate_hz=rate_hz,
        duration_s=round(tail.samples / STYLE_RATE_HZ, 3),
        window=_window(tail, window_s),
    )


class _Tail:
    """The last samples up to the last sound, of whatever comes."""

    def __init__(self, samples_max: int, *, length_s_max: int) -> None:
        self._length_s_max = length_s_max
        self._kept = _Blocks(samples_max + STYLE_RATE_HZ)  # its last block ends in silence
        self._silent = _Blocks(samples_max)  # since the last sound
        self.samples = 0

    def add(self, block: Audio) -> None:
        """Hear on."""
        self.samples += block.shape[1]
        if self.samples > self._length_s_max * STYLE_RATE_HZ:
            raise MediaError(
                f"plays for more than {self._length_s_max} s: cut out the part that counts"
            )
        if not np.isfinite(block).all():
            raise MediaError(f"holds samples that are no numbers; {_WAY_OUT}")
        if np.abs(block).max(initial=0.0) > SAMPLE_MAX:
            raise MediaError(f"holds samples far beyond full scale; {_WAY_OUT}")
        self._silent.add(block)
        if rms(block) >= SILENT_RMS:
            for heard in self._silent.taken():
                self._kept.add(heard)

    def sounding(self) -> Audio:
        """What is kept, up to its last hundredth of a second that is not silent."""
        whole = np.concatenate([np.zeros((2, 0), np.float32), *self._kept.taken()], axis=1)
        for end in range(whole.shape[1], 0, -_STEP_SAMPLES):
            if rms(whole[:, max(0, end - _STEP_SAMPLES) : end]) >= SILENT_RMS:
                return whole[:, :end]
        return whole[:, :0]


class _Blocks:
    """The last blocks, with `samples_max` samples or a block more."""

    def __init__(self, samples_max: int) -> None:
        self._max = samples_max
        self._blocks: deque[Audio] = deque()
        self._samples = 0

    def add(self, block: Audio) -> None:
        """Put it behind the others; the oldest goes when it is not needed any more."""
        self._blocks.append(block)
        self._samples += block.shape[1]
        while self._samples - self._blocks[0].shape[1] >= self._max:
            self._samples -= self._blocks.popleft().shape[1]

    def taken(self) -> tuple[Audio, ...]:
        """All of them; nothing is left."""
        blocks, self._samples = tuple(self._blocks), 0
        self._blocks.clear()
        return blocks


def _window(tail: _Tail, seconds_max: int) -> Audio:
    """The last whole seconds of what is kept."""
    least = STYLE_S_MIN * STYLE_RATE_HZ
    if tail.samples < least:
        raise MediaError(
            f"plays for {tail.samples / STYLE_RATE_HZ:.2f} s; at least {STYLE_S_MIN} s is needed, "
            "send a longer piece"
        )
    sounding = tail.sounding()
    sound_s = sounding.shape[1] // STYLE_RATE_HZ
    window = sounding[:, sounding.shape[1] - min(sound_s, seconds_max) * STYLE_RATE_HZ :]
    if sounding.shape[1] == 0 or (sound_s and rms(window) < SILENT_RMS):
        raise MediaError("is silent: send a piece that can be heard")
    if sound_s < STYLE_S_MIN:
        raise MediaError(
            f"is silent but for its first {sounding.shape[1] / STYLE_RATE_HZ:.2f} s; at least "
            f"{STYLE_S_MIN} s is needed, send a piece that sounds for longer"
        )
    return np.ascontiguousarray(window)


def _blocks(container: InputContainer) -> Iterator[Audio]:
    """The sound of the first audio stream, stereo at `STYLE_RATE_HZ`."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=STYLE_RATE_HZ)
    for frame in container.decode(audio=0):
        if frame.sample_rate < RATE_HZ_MIN:
            raise MediaError(
                f"has {frame.sample_rate} samples a second; at least {RATE_HZ_MIN} are needed, "
                "send a better copy"
            )
        frame.pts = None  # the resampler keeps its own count
        for block in resampler.resample(frame):
            yield block.to_ndarray().astype(np.float32, copy=False)
    for block in resampler.resample(None):
        yield block.to_ndarray().astype(np.float32, copy=False)


def _demuxer_of(path: Path) -> str:
    with path.open("rb") as file:
        head, at = file.read(_HEAD_BYTES), 0
        for _ in range(_ID3_TAGS_MAX):  # they may stand before anything, several in a row
            if not head.startswith(b"ID3") or len(head) < _ID3_BYTES:
                break
            size = sum(
                part << shift for part, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
            )
            at += _ID3_BYTES + size
            file.seek(at)
            head = file.read(_HEAD_BYTES)
    if not head:
        raise MediaError(f"the file is empty; {_WAY_OUT}")
    for demuxer, at, magic in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return demuxer
    if len(head) > 1 and head[0] == _FRAME_BYTE and head[1] & _MP3_SYNC == _MP3_SYNC:
        return "mp3" if head[1] & _ADTS_LAYER else "aac"
    raise MediaError(f"is no audio, or none of a known kind; {_WAY_OUT}")
