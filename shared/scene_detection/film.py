"""Reads a film once: its frames reduced to a small grid, and its sound.

Frames come in presentation order; times are seconds from the start of the film. Each frame is
scaled to 64x36 cells, whatever its format. The decoder skips the loop filter, which the grid does
not show.

I/O: reads one local file, blocking. Memory does not depend on the film's length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from shared.errors import MediaError
from shared.media.video import VideoInfo, open_video, picture_of
from shared.scene_detection.frame import HEIGHT, WIDTH, Frame, frame_of
from shared.scene_detection.slices import SOUND_RATE

_DAMAGED_PACKETS_MAX = 50  # in a row; shorter damage is skipped
_GAP_S_MAX = 60.0  # a longer gap between time stamps of sound is an error of the file


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of the film's sound: mono, float32, 16 kHz."""

    start_s: float
    samples: npt.NDArray[np.float32]


def read_film(path: Path, info: VideoInfo) -> Iterator[Frame | Sound]:
    """Yield the frames and the sound of the film in `path` as they are stored.

    Raises:
        MediaError: the picture cannot be decoded.
    """
    try:
        with open_video(path, info) as container:
            yield from _read(container)
    except av.FFmpegError as error:
        raise MediaError(f"the film cannot be decoded ({error.strerror})") from error


def _read(container: InputContainer) -> Iterator[Frame | Sound]:
    picture = picture_of(container)
    picture.codec_context.options = {"skip_loop_filter": "all"}
    start = Fraction(container.start_time or 0, av.time_base)
    frames = _Frames(start)
    streams: list[VideoStream | AudioStream] = [picture]
    sound = None
    if container.streams.audio:
        sound = _Sounds(start)
        streams.append(container.streams.audio[0])
    damaged = 0
    for packet in container.demux(streams):
        decoded = _decoded(packet)
        damaged = damaged + 1 if decoded is None else 0
        if damaged > _DAMAGED_PACKETS_MAX:
            raise MediaError(f"the film cannot be decoded: it is damaged at {_time_of(packet)}")
        for frame in decoded or ():
            if isinstance(frame, VideoFrame):
                yield from frames.reduced(frame)
            elif sound is not None and isinstance(frame, AudioFrame):
                yield from sound.resampled(frame)


def _decoded(packet: "Packet[Stream]") -> list[VideoFrame | AudioFrame] | None:
    """Return the frames of the packet; None if it is damaged."""
    try:
        return list(packet.decode())  # type: ignore[arg-type]
    except av.error.InvalidDataError:
        return None


def _time_of(packet: "Packet[Stream]") -> str:
    time = packet.pts if packet.pts is not None else packet.dts
    return "its start" if time is None else f"{float(time * packet.time_base):.1f} s"


class _Frames:
    """Reduces frames; those without a time, or that go back in time, are skipped."""

    def __init__(self, start: Fraction) -> None:
        self._start = start
        self._last_s = float("-inf")

    def reduced(self, frame: VideoFrame) -> Iterator[Frame]:
        if frame.pts is None or frame.time_base is None:
            return
        time_s = float(frame.pts * frame.time_base - self._start)
        if time_s <= self._last_s or time_s < 0:
            return
        self._last_s = time_s
        small = frame.reformat(
            width=WIDTH, height=HEIGHT, format="yuv444p", interpolation=Interpolation.AREA
        )
        planes = small.to_ndarray().reshape(3, HEIGHT, WIDTH)
        yield frame_of(time_s, planes.astype(np.float32))


class _Sounds:
    """Resamples sound to 16 kHz mono, and fills gaps between its time stamps with silence."""

    def __init__(self, start: Fraction) -> None:
        self._start = start
        self._resampler = AudioResampler("flt", "mono", SOUND_RATE)
        self._end: int | None = None  # in samples

    def resampled(self, frame: AudioFrame) -> Iterator[Sound]:
        at = self._end or 0
        if frame.pts is not None and frame.time_base is not None:
            time_s = frame.pts * frame.time_base - self._start
            at = round(time_s * SOUND_RATE)
        if self._end is None:
            self._end = max(at, 0)
        gap = at - self._end
        if SOUND_RATE // 20 < gap < _GAP_S_MAX * SOUND_RATE:
            yield Sound(self._end / SOUND_RATE, np.zeros(gap, np.float32))
            self._end += gap
        for part in self._resampler.resample(frame):
            samples = part.to_ndarray().reshape(-1).astype(np.float32, copy=False)
            yield Sound(self._end / SOUND_RATE, samples)
            self._end += len(samples)
