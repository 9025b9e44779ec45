"""Probe: what went in and what came out, measured with PyAV.

The result is believed only when it was looked at: the picture's packets are the input's, to the
bit, and there is one stereo sound as long as the picture, to a frame of AAC. I/O: reads local
files, blocking: call it in a thread.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import av

from services.muxer.ffmpeg_plan import AAC_FRAME_SAMPLES
from shared.errors import JobError, MediaError
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, samples_at
from shared.media.video import VideoInfo, probe_video

_CONTAINERS_ROUND = samples_at(0.1)  # Matroska knows milliseconds, and few last frames' length


class MuxCheckError(JobError):
    """FFmpeg said it succeeded, but the result is not what was promised."""

    code = "mux_check_failed"

    def __init__(self, problem: str) -> None:
        super().__init__(f"FFmpeg merge failed: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundInfo:
    """The sound of a file, as players will present it."""

    codec: str
    rate_hz: int
    channels: int
    start_samples: int  #: where on the file's timeline it begins, at 48 kHz
    samples: int  #: presented, at 48 kHz: without the encoder's priming and padding


def probe_source(path: Path, *, name: str) -> VideoInfo:
    """What the video at `path` holds; errors call it by the field `name`.

    Raises:
        MediaError: it cannot be scored, or MP4 cannot hold its picture.
    """
    try:
        video = probe_video(path)
    except MediaError as error:
        raise MediaError(f"{name}: {error.reason}", code=error.code) from error
    if video.video_codec not in _mp4_codecs():
        raise MediaError(
            f"{name}: MP4 cannot hold a picture in {video.video_codec}, and Segue copies the "
            "picture as it is; hand it in as H.264, HEVC, VP9 or AV1, "
            "e.g. ffmpeg -i IN -c:v libx264 OUT.mp4",
            code="picture_not_for_mp4",
        )
    return video


def probe_sound(path: Path) -> tuple[SoundInfo, ...]:
    """Every sound stream of the MP4 at `path`, by its header and edit list."""
    with av.open(str(path), format="mov", options={"protocol_whitelist": "file"}) as container:
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


def check_result(path: Path, *, source: VideoInfo, samples: int) -> None:
    """Return if the file at `path` is the picture of `source` with `samples` of sound.

    Raises:
        MuxCheckError: it is not, and in what.
    """
    try:
        result, sounds = probe_video(path), probe_sound(path)
    except MediaError as error:
        raise MuxCheckError(f"of the result, {error.reason}") from error
    except FileNotFoundError as error:
        raise MuxCheckError("it left no result") from error
    except av.FFmpegError as error:
        raise MuxCheckError(f"the result cannot be read: {error.strerror}") from error
    if result.picture_sha256 != source.picture_sha256:
        raise MuxCheckError(
            f"the picture did not come through unchanged ({source.packet_count} packets in, "
            f"{result.packet_count} out)"
        )
    frame_samples = source.samples // source.packet_count
    if abs(result.samples - source.samples) > max(frame_samples, _CONTAINERS_ROUND):
        raise MuxCheckError(
            f"the picture lasts {result.duration_s:.2f} s instead of {source.duration_s:.2f} s"
        )
    wanted = ("aac", SAMPLE_RATE_HZ, CHANNELS)
    if [(s.codec, s.rate_hz, s.channels) for s in sounds] != [wanted]:
        raise MuxCheckError(f"the sound of the result is {sounds}")
    off = abs(sounds[0].start_samples + sounds[0].samples - samples)
    if off > AAC_FRAME_SAMPLES:
        raise MuxCheckError(f"the sound is {off} samples off the picture's {samples}")


def _mp4_codecs() -> set[str]:
    """What FFmpeg's MP4 writer takes, as it says itself."""
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        return set(container.supported_codecs)
