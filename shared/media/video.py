"""Probes video files: returns what they contain, or rejects them.

The container is detected from the first bytes and its demuxer is fixed, so a playlist named like a
video is rejected before any demuxer reads it, and no demuxer opens what a file refers to. Every
packet is read once, because headers can be wrong. Nothing is decoded.

Units: the picture's length is whole samples at 48 kHz, from the start of the file's timeline to
the end of its last frame. I/O: reads one local file, blocking: call it in a thread.
"""

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from shared.errors import MediaError
from shared.media.paths import media_path
from shared.media.samples import samples_at, seconds_at

LENGTH_S_MAX = 6 * 3600  # longer time stamps are wrong or an attack
PIXELS_MAX = 7680 * 4320  # 8K
_HEAD_BYTES = 512
_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_NAMES = {"mov": "MP4", "matroska": "Matroska"}
_EARLY_S = Fraction(1, 5)  # headers are rounded, and edit lists cut inside a frame
_ONLY_FILES = {"protocol_whitelist": "file"}
_ADVICE = "MP4, MOV, Matroska and WebM are supported; convert it: ffmpeg -i IN -c copy OUT.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A complete video, measured."""

    demuxer: str  #: FFmpeg's name, for `-f`: "mov" (MP4, MOV) or "matroska" (and WebM)
    video_codec: str
    width: int
    height: int
    samples: int  #: length of the picture at 48 kHz
    packet_count: int  #: packets of the picture
    picture_sha256: str  #: over the picture's packets in order; an exact copy has the same
    has_audio: bool

    @property
    def duration_s(self) -> float:
        """Return the length of the picture in seconds."""
        return seconds_at(self.samples)


@dataclass(slots=True)
class _Packets:
    """What reading all packets measured; times are exact seconds."""

    count: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    picture_end_s: Fraction = Fraction(0)
    end_s: Fraction = Fraction(0)  #: over all streams
    cut: bool = False  #: a packet is shorter than the index says


def probe_video(path: Path) -> VideoInfo:
    """Return what the video at `path` contains.

    Raises:
        MediaError: not a video, no picture, or truncated; the message is for users.
    """
    demuxer = _demuxer_of(path)
    name = _NAMES[demuxer]
    try:
        with av.open(
            media_path(path), format=demuxer, options=_ONLY_FILES, metadata_errors="replace"
        ) as container:
            picture = _picture(container)
            return _measured(container, picture, demuxer)
    except av.FFmpegError as error:
        raise MediaError(
            f"the {name} file cannot be read: it ends early or is damaged ({error.strerror})"
        ) from error


def _demuxer_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(_MATROSKA_MAGIC):
        return "matroska"
    if not head:
        raise MediaError("not a video: the file is empty")
    if "".join(head.decode("utf-8", errors="ignore").split()).isprintable():
        raise MediaError(f"not a video: the file is text. {_ADVICE}")
    raise MediaError(f"not a video, or an unsupported format. {_ADVICE}")


def _picture(container: InputContainer) -> VideoStream:
    """Return the first video stream that is not cover art."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        content = "only sound" if container.streams.audio else "no video stream"
        raise MediaError(f"the file has no picture: {content}")
    if getattr(stream, "codec_context", None) is None:  # missing in PyAV's types
        raise MediaError("the picture's codec is unknown to FFmpeg, or it is damaged")
    if stream.width * stream.height > PIXELS_MAX:
        raise MediaError(f"a picture of {stream.width}x{stream.height} exceeds 7680x4320")
    return stream


def _measured(container: InputContainer, picture: VideoStream, demuxer: str) -> VideoInfo:
    frame_s = 1 / picture.average_rate if picture.average_rate else Fraction(0)
    packets = _read(container, picture, frame_s)
    start_s = Fraction(container.start_time or 0, av.time_base)
    _check_whole(container, picture, packets, tolerance_s=max(_EARLY_S, 2 * frame_s))
    samples = samples_at(packets.picture_end_s - start_s)
    if samples < 1:
        raise MediaError("the file has no picture: its video stream has no duration")
    return VideoInfo(
        demuxer=demuxer,
        video_codec=picture.codec_context.codec.canonical_name,
        width=picture.width,
        height=picture.height,
        samples=samples,
        packet_count=packets.count,
        picture_sha256=packets.digest.hexdigest(),
        has_audio=bool(container.streams.audio),
    )


def _read(container: InputContainer, picture: VideoStream, frame_s: Fraction) -> _Packets:
    packets = _Packets()
    for packet in container.demux():
        if packet.size == 0:
            continue  # the flush at the end
        packets.cut = packets.cut or packet.is_corrupt
        is_picture = packet.stream.index == picture.index
        if is_picture:
            packets.count += 1
            packets.digest.update(packet)
        time = packet.dts if packet.pts is None else packet.pts
        if packet.is_discard or time is None:
            continue  # decoded, but outside the edit list: never shown
        length_s = Fraction(packet.duration or 0) * packet.time_base
        end_s = time * packet.time_base + (length_s or (frame_s if is_picture else 0))
        if end_s > LENGTH_S_MAX:
            raise MediaError(f"longer than {LENGTH_S_MAX // 3600} hours, by its time stamps")
        packets.end_s = max(packets.end_s, end_s)
        if is_picture:
            packets.picture_end_s = max(packets.picture_end_s, end_s)
    if not packets.count:
        raise MediaError("the file has no picture: its video stream is empty or ends early")
    return packets


def _check_whole(
    container: InputContainer, picture: VideoStream, packets: _Packets, *, tolerance_s: Fraction
) -> None:
    """Compare the length in the header with the packets."""
    end_s = packets.end_s
    if picture.duration is not None and picture.time_base is not None:
        header_s = ((picture.start_time or 0) + picture.duration) * picture.time_base
        end_s = packets.picture_end_s
    elif container.duration is not None:  # Matroska has only the length of the whole
        header_s = Fraction((container.start_time or 0) + container.duration, av.time_base)
    else:
        header_s = end_s
    if packets.cut or header_s - end_s > tolerance_s:
        raise MediaError(
            f"the video ends early: its header says {float(header_s):.2f} s, "
            f"its packets end at {float(end_s):.2f} s"
        )
