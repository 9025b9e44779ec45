"""Probes video files: returns what they contain, or rejects what cannot be scored.

The container is detected from the first bytes and its demuxer is fixed, so a playlist named like a
video is rejected before any demuxer reads it, and no demuxer opens what a file refers to. Every
packet is read once, because headers can be wrong. Nothing is decoded.

The muxer copies the picture into MP4, so a film is also rejected if a copy cannot have the same
picture: it is encrypted, MP4 has no place for its codec, or several edits show it.

Units: the picture's length is whole samples at 48 kHz, from the start of the file's timeline to
the end of its last frame. I/O: reads one local file, blocking: call it in a thread.
"""

import hashlib
import io
from array import array
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from shared.errors import MediaError
from shared.media.film_extras import FilmExtras, read_extras
from shared.media.mp4_boxes import Mp4Index, Patch, read_index, single_edit_patch
from shared.media.needed_packets import NeededPackets
from shared.media.patched_file import PatchedFile
from shared.media.paths import media_path
from shared.media.samples import samples_at, seconds_at
from shared.media.video_container import CONVERT, NAMES, demuxer_of, is_cut

LENGTH_S_MAX = 6 * 3600  # longer time stamps are wrong or an attack
PIXELS_MAX = 7680 * 4320  # 8K
_EARLY_S = Fraction(1, 5)  # headers are rounded, and edit lists cut inside a frame
_REUSE_MAX = 8  # packets may share bytes: an edit list may repeat a part of the video
_ONLY_FILES = {"protocol_whitelist": "file"}
_ONLY_READ = {"protocol_whitelist": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A complete video, measured."""

    demuxer: str  #: FFmpeg's name, for `-f`: "mov" (MP4, MOV) or "matroska" (and WebM)
    video_codec: str
    description_count: int  #: sample entries of the picture; 0: not an MP4
    codec_tag: str  #: four characters of MP4 and MOV, such as "hvc1"
    width: int
    height: int
    samples: int  #: length of the picture at 48 kHz
    packet_count: int  #: packets of the picture
    picture_sha256: str  #: over the picture's packets in order; an exact copy has the same
    needed_sha256: str  #: over those packets that the presented frames need
    presented_sha256: str  #: over the times in ms of the presented frames, from the first
    has_audio: bool
    lead_s: float  #: time without any picture or sound at the start, which FFmpeg would remove
    extras: FilmExtras
    shown_s: float | None = None  #: length of the presentation that hides later frames; None: no
    notes: tuple[str, ...] = ()  #: what a user should know about the file
    patch: Patch | None = None  #: to apply to a file before it is copied; None: none is needed

    @property
    def duration_s(self) -> float:
        """Return the length of the picture in seconds."""
        return seconds_at(self.samples)


@dataclass(slots=True)
class _Packets:
    """What reading all packets measured; times are exact seconds."""

    count: int = 0
    needed: NeededPackets = field(default_factory=NeededPackets)
    size_bytes: int = 0  #: over all streams
    times_ms: "array[int]" = field(default_factory=lambda: array("q"))
    first: int | None = None  #: of the presented frames, in the picture's time base
    last: int = 0  #: of the presented frames
    hidden: "array[int]" = field(default_factory=lambda: array("q"))  #: times of hidden frames
    picture_end_s: Fraction = Fraction(0)
    end_s: Fraction = Fraction(0)  #: over all streams
    cut: bool = False  #: a packet is shorter than the index says


def probe_video(path: Path) -> VideoInfo:
    """Return what the video at `path` contains.

    Raises:
        MediaError: not a video, no picture, truncated, or its picture cannot be copied into MP4;
            the message is for users.
    """
    demuxer = demuxer_of(path)
    index = read_index(path) if demuxer == "mov" else None
    try:
        with _opened(path, demuxer) as container:
            picture = _checked_picture(container, index)
            patch = _edit_patch(picture, index)
            if patch is None:
                return _measured(container, picture, path, index)
            unjoined = _measured(container, picture, path, index) if patch.joins_edits else None
        with _opened(path, demuxer, patch) as container:
            video = _measured(container, _checked_picture(container, index), path, index)
        if unjoined is not None and unjoined.presented_sha256 != video.presented_sha256:
            raise _edits_error("the film's edit list shows the picture in several parts")
        return replace(video, patch=patch)
    except av.FFmpegError as error:
        raise MediaError(
            f"the {NAMES[demuxer]} file cannot be read: it ends early or is damaged "
            f"({error.strerror})"
        ) from error


def check_beginning(path: Path) -> None:
    """Raise if what is there of an incomplete file shows that it cannot be scored.

    Raises:
        MediaError: as `probe_video`, as far as the index shows.
    """
    demuxer = demuxer_of(path)
    index = read_index(path) if demuxer == "mov" else None
    with suppress(av.FFmpegError), _opened(path, demuxer) as container:
        if container.streams.video:
            _edit_patch(_checked_picture(container, index), index)


def open_video(path: Path, info: VideoInfo) -> InputContainer:
    """Open the video, whose probe is `info`, as it is presented; it can refer to no other file."""
    return _opened(path, info.demuxer, info.patch)


def _opened(path: Path, demuxer: str, patch: Patch | None = None) -> InputContainer:
    """Open the file, with `patch` applied to what is read of it."""
    if patch is None:
        return av.open(
            media_path(path),
            mode="r",
            format=demuxer,
            options=_ONLY_FILES,
            metadata_errors="replace",
        )
    source = PatchedFile(path, patch)
    return av.open(source, mode="r", format=demuxer, options=_ONLY_READ, metadata_errors="replace")


def _checked_picture(container: InputContainer, index: Mp4Index | None) -> VideoStream:
    """Return the picture that the muxer would copy."""
    picture = picture_of(container)
    track = None if index is None else index.track(picture.id)
    if "enc_key_id" in picture.metadata or (track is not None and track.is_encrypted):
        raise MediaError(
            "the film is encrypted (DRM); upload a version without encryption", code="encrypted"
        )
    if getattr(picture, "codec_context", None) is None:  # missing in PyAV's types
        raise MediaError("the picture's codec is unknown to FFmpeg, or it is damaged")
    if picture.width * picture.height > PIXELS_MAX:
        raise MediaError(f"a picture of {picture.width}x{picture.height} exceeds 7680x4320")
    codec = picture.codec_context.codec.canonical_name
    if codec not in _mp4_codecs():
        raise MediaError(
            f"MP4 cannot hold a picture in {codec}, and Segue copies the picture unchanged; "
            f"convert the film: {CONVERT}",
            code="picture_not_for_mp4",
        )
    return picture


def picture_of(container: InputContainer) -> VideoStream:
    """Return the first video stream that is not cover art.

    Raises:
        MediaError: there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    content = "only sound" if container.streams.audio else "no video stream"
    raise MediaError(f"the file has no picture: {content}")


def _edit_patch(picture: VideoStream, index: Mp4Index | None) -> Patch | None:
    if index is None:
        return None
    try:
        return single_edit_patch(index, index.track(picture.id))
    except MediaError as error:
        raise _edits_error(error.reason) from error


def _edits_error(reason: str) -> MediaError:
    return MediaError(
        f"{reason}, and a copy can show only one part at normal speed; "
        f"write the edits into the picture: {CONVERT}",
        code="edits_not_for_copy",
    )


@cache
def _mp4_codecs() -> frozenset[str]:
    """Return the codecs that FFmpeg's MP4 muxer supports."""
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        return frozenset(container.supported_codecs)


def _measured(
    container: InputContainer, picture: VideoStream, path: Path, index: Mp4Index | None
) -> VideoInfo:
    frame_s = 1 / picture.average_rate if picture.average_rate else Fraction(0)
    packets = _read(container, picture, frame_s)
    start_s = Fraction(container.start_time or 0, av.time_base)
    lead_s = _lead_s(start_s, picture, index)
    notes = _check_whole(container, picture, packets, path, tolerance_s=max(_EARLY_S, 2 * frame_s))
    samples = samples_at(packets.picture_end_s - start_s + lead_s)
    if samples < 1:
        raise MediaError("the file has no picture: its video stream has no duration")
    context = picture.codec_context
    return VideoInfo(
        demuxer="matroska" if index is None else "mov",
        video_codec=context.codec.canonical_name,
        description_count=0 if index is None else len(index.track(picture.id).sample_entries),
        codec_tag=str(context.codec_tag),
        width=picture.width,
        height=picture.height,
        samples=samples,
        packet_count=packets.count,
        picture_sha256=packets.needed.whole.hexdigest(),
        needed_sha256=packets.needed.hexdigest(),
        presented_sha256=_presented_sha256(packets.times_ms),
        has_audio=bool(container.streams.audio),
        lead_s=float(lead_s),
        shown_s=_shown_s(packets, picture.time_base or Fraction(0)),
        extras=read_extras(container, picture, index),
        notes=notes,
    )


def _lead_s(start_s: Fraction, picture: VideoStream, index: Mp4Index | None) -> Fraction:
    """Return how much of the time before the first stream an edit list asks for."""
    if index is None:
        return Fraction(0)  # Matroska may begin at any time, which means nothing
    return max(min(index.lead_s(index.track(picture.id)), start_s), Fraction(0))


def _read(container: InputContainer, picture: VideoStream, frame_s: Fraction) -> _Packets:
    packets = _Packets()
    for packet in container.demux():
        if packet.size == 0:
            continue  # the flush at the end
        packets.size_bytes += packet.size
        if packets.size_bytes > _REUSE_MAX * container.size:
            raise MediaError(
                "the index of the file names more data than the file has: it is damaged, or was "
                "made to exhaust its reader; export it again"
            )
        packets.cut = packets.cut or packet.is_corrupt
        is_picture = packet.stream.index == picture.index
        if is_picture:
            packets.count += 1
            packets.needed.add(
                packet,
                time=packet.pts,
                is_key_frame=packet.is_keyframe,
                is_hidden=packet.is_discard,
            )
        time = packet.dts if packet.pts is None else packet.pts
        if packet.is_discard or time is None:
            if is_picture and time is not None:
                packets.hidden.append(time)
            continue  # decoded, but outside the edit list: never shown
        length_s = Fraction(packet.duration or 0) * packet.time_base
        start_s = time * packet.time_base
        end_s = start_s + (length_s or (frame_s if is_picture else 0))
        if end_s > LENGTH_S_MAX:
            raise MediaError(f"longer than {LENGTH_S_MAX // 3600} hours, by its time stamps")
        packets.end_s = max(packets.end_s, end_s)
        if is_picture:
            packets.picture_end_s = max(packets.picture_end_s, end_s)
            packets.times_ms.append(round(start_s * 1000))
            packets.first = time if packets.first is None else min(packets.first, time)
            packets.last = max(packets.last, time)
    if not packets.count:
        raise MediaError("the file has no picture: its video stream is empty or ends early")
    return packets


def _shown_s(packets: _Packets, time_base: Fraction) -> float | None:
    """Return how long the frames are shown that an edit list ends; None if it ends none."""
    later = min((time for time in packets.hidden if time > packets.last), default=None)
    if later is None or packets.first is None:
        return None
    end_s = min(packets.picture_end_s, later * time_base)
    return float(end_s - packets.first * time_base)


def _presented_sha256(times_ms: "array[int]") -> str:
    first = min(times_ms, default=0)
    return hashlib.sha256(array("q", (time - first for time in times_ms)).tobytes()).hexdigest()


def _check_whole(
    container: InputContainer,
    picture: VideoStream,
    packets: _Packets,
    path: Path,
    *,
    tolerance_s: Fraction,
) -> tuple[str, ...]:
    """Compare the length in the header with the packets; return notes.

    A header that promises more than a complete file has is only wrong: its frames count.
    """
    end_s = packets.end_s
    if picture.duration is not None and picture.time_base is not None:
        header_s = ((picture.start_time or 0) + picture.duration) * picture.time_base
        end_s = packets.picture_end_s
    elif container.duration is not None:  # Matroska has the length of the whole, or its end
        header_s = Fraction(container.duration, av.time_base)
    else:
        header_s = end_s
    lengths = f"its header says {float(header_s):.2f} s, its packets end at {float(end_s):.2f} s"
    is_late = header_s - end_s > tolerance_s
    is_short = is_late and (packets.count < picture.frames or is_cut(path))
    if packets.cut or is_short:
        raise MediaError(f"the video ends early: {lengths}")
    return (f"the video's header is wrong: {lengths}; the packets decide",) if is_late else ()
