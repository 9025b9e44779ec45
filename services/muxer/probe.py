"""Probes the source video and checks the muxed result with PyAV.

The result is accepted only if its picture packets are identical to the source's, the same frames
are presented at the same times, and it has one stereo stream as long as the picture, within one
AAC frame.

I/O: reads local files and blocks; call it in a thread.
"""

from dataclasses import dataclass
from pathlib import Path

import av

from services.muxer.ffmpeg_plan import AAC_FRAME_SAMPLES
from shared.errors import JobError, MediaError
from shared.media.mp4_boxes import end_patch, read_index
from shared.media.paths import media_path
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, samples_at
from shared.media.video import VideoInfo, probe_video

_PICTURE_TRACK = 1  # the stream that is mapped first
_LENGTH_TOLERANCE = samples_at(0.1)  # Matroska has milliseconds, and often no last frame length


class MuxCheckError(JobError):
    """FFmpeg exited with 0, but the result is wrong."""

    code = "mux_check_failed"

    def __init__(self, problem: str) -> None:
        super().__init__(f"FFmpeg merge failed: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundInfo:
    """One audio stream as players present it."""

    codec: str
    rate_hz: int
    channels: int
    start_samples: int  #: start on the file's timeline, at 48 kHz
    samples: int  #: presented length at 48 kHz, without the encoder's priming and padding


def probe_source(path: Path, *, name: str) -> VideoInfo:
    """Probe the source video; errors name the request field `name`.

    Raises:
        MediaError: the file is not a video, or its picture cannot be copied into MP4.
    """
    try:
        return probe_video(path)
    except MediaError as error:
        raise MediaError(f"{name}: {error.reason}", code=error.code) from error


def probe_sound(path: Path) -> tuple[SoundInfo, ...]:
    """Return the audio streams of an MP4, from its header and edit list."""
    with av.open(
        media_path(path), format="mov", options={"protocol_whitelist": "file"}
    ) as container:
        return tuple(
            SoundInfo(
                codec=stream.codec_context.codec.canonical_name,
                rate_hz=stream.rate,
                channels=stream.channels,
                start_samples=samples_at((stream.start_time or 0) * stream.time_base),
                samples=samples_at((stream.duration or 0) * stream.time_base),
            )
            for stream in container.streams.audio
            if stream.time_base is not None
        )


def end_presentation(path: Path, shown_s: float) -> None:
    """End the picture of the result after `shown_s`, as the source's edit list does.

    FFmpeg counts hidden frames that precede the last shown one in decoding order.
    """
    index = read_index(path)
    patch = end_patch(index, index.track(_PICTURE_TRACK), shown_s)
    if patch is not None:
        patch.apply(path)


def check_result(path: Path, *, source: VideoInfo, samples: int) -> VideoInfo:
    """Return the result, checked: it has the source's picture and `samples` of sound.

    Raises:
        MuxCheckError: the result is wrong; the message says how.
    """
    try:
        result, sounds = probe_video(path), probe_sound(path)
    except MediaError as error:
        raise MuxCheckError(f"the result: {error.reason}") from error
    except FileNotFoundError as error:
        raise MuxCheckError("ffmpeg wrote no result") from error
    except av.FFmpegError as error:
        raise MuxCheckError(f"the result cannot be read: {error.strerror}") from error
    if result.needed_sha256 != source.needed_sha256:
        raise MuxCheckError(
            f"the picture was not copied unchanged ({source.packet_count} packets in, "
            f"{result.packet_count} out)"
        )
    if result.description_count < source.description_count:
        raise MuxCheckError(
            f"the picture has {source.description_count} sample descriptions, the result "
            f"{result.description_count}; use a newer ffmpeg"
        )
    if result.presented_sha256 != source.presented_sha256:
        raise MuxCheckError("the frames of the result are shown at other times than the video's")
    frame_samples = source.samples // source.packet_count
    if abs(result.samples - source.samples) > max(frame_samples, _LENGTH_TOLERANCE):
        raise MuxCheckError(
            f"the picture lasts {result.duration_s:.2f} s instead of {source.duration_s:.2f} s"
        )
    expected = ("aac", SAMPLE_RATE_HZ, CHANNELS)
    if [(s.codec, s.rate_hz, s.channels) for s in sounds] != [expected]:
        raise MuxCheckError(f"the sound of the result is {sounds}")
    difference = abs(sounds[0].start_samples + sounds[0].samples - samples)
    if difference > AAC_FRAME_SAMPLES:
        raise MuxCheckError(
            f"the sound differs by {difference} samples from the picture's {samples}"
        )
    return result
