"""Brings a joined track to its loudness and encodes it as MP3.

The gain is linear and constant over the track: the dynamics of the music stay as they are. An MP3
decoder overshoots the peaks of the input, so the encoded track is measured, and encoded again at
a lower level until its true peak is below the limit.

Units: LUFS integrated (EBU R 128), dBTP true peak, samples at 48 kHz. I/O: runs ffmpeg on files.
"""

import asyncio
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from services.merger.settings import MergerSettings
from shared.errors import MediaError
from shared.media.ffmpeg import INPUT_GUARD, Ffmpeg, FfmpegError, FfmpegResult
from shared.media.paths import media_path
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, seconds_at

_ENCODES_MAX = 4  # one, and up to three at a lower level; measured: a second one is enough
_HEADROOM_DB = 0.05  # added to a measured overshoot, because the next encode differs a little
_BITRATE = "192k"
_CODER_LOSS_DB = 0.26  # LAME at 192 kb/s lowers the level to 0.97 (measured); compensated
_SILENCE_LUFS = -70.0  # the absolute gate of EBU R 128: the meter measured nothing
_OFF_TARGET_LU = 0.5  # a larger difference adds a warning
_RAW = ("-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", str(CHANNELS))
_METER = (
    "ebur128=peak=true:framelog=quiet:metadata=1,"
    "ametadata=mode=print:key=lavfi.r128.I:file=-,"
    "ametadata=mode=print:key=lavfi.r128.true_peak:file=-"
)
_INTEGRATED = r"I:\s+(\S+) LUFS"
_MP3_FRAME_SAMPLES = 1152
_MP3_DELAY_SAMPLES = 1105  # added by LAME and removed by a gapless decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Loudness:
    """Loudness and true peak of a whole track."""

    integrated_lufs: float | None  #: None: silent, or too short to measure
    true_peak_dbtp: float | None  #: None: every sample is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Mastered:
    """Measurements of the encoded track, and the gain that was applied."""

    loudness: Loudness
    gain_db: float
    warnings: tuple[str, ...]


async def master(
    ffmpeg: Ffmpeg, raw: Path, mp3: Path, *, samples: int, settings: MergerSettings
) -> Mastered:
    """Encode `raw` (float32, interleaved) to `mp3` at the target loudness.

    Raises:
        MediaError: the MP3 does not decode to `samples` samples, because the track is too short.
        FfmpegError: ffmpeg failed, timed out, or wrote no usable file.
    """
    media_s = seconds_at(samples)
    before = after = await measure(ffmpeg, (*_RAW, *INPUT_GUARD, "-i", raw), media_s=media_s)
    gain_db = gain_for(before, settings)
    for retries_left in reversed(range(_ENCODES_MAX)):
        await _encode(ffmpeg, raw, mp3, samples=samples, gain_db=gain_db)
        after = await measure(ffmpeg, (*INPUT_GUARD, "-i", mp3), media_s=media_s)
        margin_db = _margin_db(after, settings)
        if margin_db >= 0 or not retries_left:
            break
        gain_db += margin_db - _HEADROOM_DB
    try:
        decoded = await asyncio.to_thread(_decoded_samples, mp3)
    except av.FFmpegError as error:
        reason = f"the track cannot be decoded: {error.strerror}"
        raise FfmpegError((ffmpeg.binary,), 0, reason) from error
    if decoded != samples:
        raise MediaError(f"the track decodes to {decoded} samples, its scenes have {samples}")
    return Mastered(loudness=after, gain_db=gain_db, warnings=tuple(_warnings(after, settings)))


async def measure(ffmpeg: Ffmpeg, source: tuple[str | Path, ...], *, media_s: float) -> Loudness:
    """Return the loudness of `source`, measured by ffmpeg's EBU R 128 meter.

    Raises:
        FfmpegError: ffmpeg failed, timed out, or its meter printed nothing (it also prints a
            value for silence).
    """
    args = ("-nostats", *source, "-af", _METER, "-f", "null", "-")
    result = await ffmpeg.run(args, media_s=media_s)
    if re.search(_INTEGRATED, result.stderr) is None:
        raise FfmpegError((ffmpeg.binary, *map(str, args)), 0, "its meter measured nothing")
    return _parse_meter(result)


def gain_for(measured: Loudness, settings: MergerSettings) -> float:
    """Return the gain in dB to the target loudness, limited by the true peak."""
    margin_db = _margin_db(measured, settings)
    if measured.integrated_lufs is None:
        return min(0.0, margin_db)
    return min(settings.loudness_lufs - measured.integrated_lufs, margin_db)


def _margin_db(measured: Loudness, settings: MergerSettings) -> float:
    """Return the distance of the true peak below its limit, in dB."""
    if measured.true_peak_dbtp is None:
        return math.inf
    return settings.true_peak_dbtp - measured.true_peak_dbtp


def _parse_meter(result: FfmpegResult) -> Loudness:
    """Return the last values of the meter, from its metadata and summary."""
    integrated = _last_number(rb"lavfi.r128.I=", result.stdout)
    if integrated is None:
        integrated = _summary_number(_INTEGRATED, result.stderr)
    peak = _last_number(rb"lavfi.r128.true_peak=", result.stdout)
    fine_dbtp = 20 * math.log10(peak) if peak else None
    coarse_dbtp = _summary_number(r"Peak:\s+(\S+) dBFS", result.stderr)
    peak_dbtp = fine_dbtp
    if coarse_dbtp is not None and (fine_dbtp is None or coarse_dbtp - 0.05 > fine_dbtp):
        peak_dbtp = coarse_dbtp + 0.05  # only the summary covers the last 0.1 s
    silent = integrated is None or integrated <= _SILENCE_LUFS
    return Loudness(integrated_lufs=None if silent else integrated, true_peak_dbtp=peak_dbtp)


def _last_number(key: bytes, text: bytes) -> float | None:
    number = re.match(rb"\S+", text[text.rfind(key) + len(key) :]) if key in text else None
    return _finite(number.group().decode()) if number else None


def _summary_number(pattern: str, text: str) -> float | None:
    numbers = re.findall(pattern, text)
    return _finite(numbers[-1]) if numbers else None


def _finite(number: str) -> float | None:
    try:
        value = float(number)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


async def _encode(ffmpeg: Ffmpeg, raw: Path, mp3: Path, *, samples: int, gain_db: float) -> None:
    # LAME sometimes ends with a frame that holds only padding, and then the padding in its header
    # is wrong by up to 46 samples (4 lengths in 100): that frame is dropped.
    frames = max(2, -(-(samples + _MP3_DELAY_SAMPLES) // _MP3_FRAME_SAMPLES))
    args = (
        *("-nostats", *_RAW, *INPUT_GUARD, "-i", raw),
        *("-af", f"volume={gain_db + _CODER_LOSS_DB:.4f}dB:precision=float"),
        *("-c:a", "libmp3lame", "-b:a", _BITRATE),
        *("-bsf:a", f"noise=amount=0:drop=gte(n\\,{frames})"),
        *("-f", "mp3", mp3),
    )
    await ffmpeg.run(args, media_s=seconds_at(samples))


def _decoded_samples(mp3: Path) -> int:
    """Return the length of a gapless decode, frame by frame."""
    with av.open(media_path(mp3), format="mp3") as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def _warnings(after: Loudness, settings: MergerSettings) -> Iterator[str]:
    reached, peak = after.integrated_lufs, after.true_peak_dbtp
    if reached is not None and reached < settings.loudness_lufs - _OFF_TARGET_LU:
        yield (
            f"the track reaches {reached:.1f} LUFS instead of {settings.loudness_lufs:g}: "
            f"its peaks allow no more gain"
        )
    if peak is not None and peak > settings.true_peak_dbtp:
        yield f"the track peaks at {peak:.2f} dBTP, above {settings.true_peak_dbtp:g}"
