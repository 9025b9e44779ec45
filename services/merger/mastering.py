"""Loudness: measures a joined track, brings it to its level with one gain, and encodes it.

The gain is linear and the same from first to last sample: what the music does with its dynamics
is its own business. An MP3 decoder overshoots the peaks that went in, so the encoded track is
measured again, and encoded once more at a lower level until it keeps the promise.

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
from shared.media.samples import CHANNELS, SAMPLE_RATE_HZ, seconds_at

_ENCODES_MAX = 4  # one and three lower; measured: a second one is enough
_HEADROOM_DB = 0.05  # taken beyond a measured overshoot, because the next one differs a little
_BITRATE = "192k"
_CODER_LOSS_DB = 0.26  # LAME lowers what it codes at 192 kb/s to 0.97 (measured); given back
_SILENCE_LUFS = -70.0  # the absolute gate of EBU R 128: nothing was measured
_OFF_TARGET_LU = 0.5  # the promise; beyond it the reader is told
_RAW = ("-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", str(CHANNELS))
_METER = (
    "ebur128=peak=true:framelog=quiet:metadata=1,"
    "ametadata=mode=print:key=lavfi.r128.I:file=-,"
    "ametadata=mode=print:key=lavfi.r128.true_peak:file=-"
)
_INTEGRATED = r"I:\s+(\S+) LUFS"
_MP3_FRAME_SAMPLES = 1152
_MP3_DELAY_SAMPLES = 1105  # what LAME puts in front, and a gapless decoder takes off again


@dataclass(frozen=True, slots=True, kw_only=True)
class Loudness:
    """What a meter says of a whole track."""

    integrated_lufs: float | None  #: None: silence, or too short to be measured
    true_peak_dbtp: float | None  #: None: no sample sounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Mastered:
    """The encoded track as it decodes."""

    loudness: Loudness
    gain_db: float
    warnings: tuple[str, ...]


async def master(
    ffmpeg: Ffmpeg, raw: Path, mp3: Path, *, samples: int, settings: MergerSettings
) -> Mastered:
    """Write `raw` (float32, interleaved) to `mp3` at its level, `samples` long when decoded.

    Raises:
        MediaError: the track is too short to be an MP3.
        FfmpegError: ffmpeg failed, took too long, or left nothing that can be used.
    """
    media_s = seconds_at(samples)
    before = after = await measure(ffmpeg, (*_RAW, *INPUT_GUARD, "-i", raw), media_s=media_s)
    gain_db = gain_for(before, settings)
    for left in reversed(range(_ENCODES_MAX)):
        await _encode(ffmpeg, raw, mp3, samples=samples, gain_db=gain_db)
        after = await measure(ffmpeg, (*INPUT_GUARD, "-i", mp3), media_s=media_s)
        margin_db = _margin_db(after, settings)
        if margin_db >= 0 or not left:
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
    """The loudness of `source`, as ffmpeg's EBU R 128 meter has it.

    Raises:
        FfmpegError: ffmpeg failed, took too long, or its meter said nothing: also of silence it
            says that it is silence.
    """
    args = ("-nostats", *source, "-af", _METER, "-f", "null", "-")
    result = await ffmpeg.run(args, media_s=media_s)
    if re.search(_INTEGRATED, result.stderr) is None:
        raise FfmpegError((ffmpeg.binary, *map(str, args)), 0, "its meter measured nothing")
    return _parse_meter(result)


def gain_for(measured: Loudness, settings: MergerSettings) -> float:
    """The gain in dB to the wanted loudness, or as far as the peaks allow."""
    margin_db = _margin_db(measured, settings)
    if measured.integrated_lufs is None:
        return min(0.0, margin_db)
    return min(settings.loudness_lufs - measured.integrated_lufs, margin_db)


def _margin_db(measured: Loudness, settings: MergerSettings) -> float:
    """How far the peaks lie below their ceiling; negative: above it."""
    if measured.true_peak_dbtp is None:
        return math.inf
    return settings.true_peak_dbtp - measured.true_peak_dbtp


def _parse_meter(result: FfmpegResult) -> Loudness:
    """The meter's last words: its summary has the whole, its metadata the finer figures."""
    integrated = _last_number(rb"lavfi.r128.I=", result.stdout)
    if integrated is None:
        integrated = _summary_number(_INTEGRATED, result.stderr)
    peak = _last_number(rb"lavfi.r128.true_peak=", result.stdout)
    fine_dbtp = 20 * math.log10(peak) if peak else None
    coarse_dbtp = _summary_number(r"Peak:\s+(\S+) dBFS", result.stderr)
    peak_dbtp = fine_dbtp
    if coarse_dbtp is not None and (fine_dbtp is None or coarse_dbtp - 0.05 > fine_dbtp):
        peak_dbtp = coarse_dbtp + 0.05  # of the last tenth of a second only the summary knows
    silent = integrated is None or integrated <= _SILENCE_LUFS
    return Loudness(integrated_lufs=None if silent else integrated, true_peak_dbtp=peak_dbtp)


def _last_number(key: bytes, text: bytes) -> float | None:
    found = re.match(rb"\S+", text[text.rfind(key) + len(key) :]) if key in text else None
    return _finite(found.group().decode()) if found else None


def _summary_number(pattern: str, text: str) -> float | None:
    found = re.findall(pattern, text)
    return _finite(found[-1]) if found else None


def _finite(number: str) -> float | None:
    try:
        value = float(number)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


async def _encode(ffmpeg: Ffmpeg, raw: Path, mp3: Path, *, samples: int, gain_db: float) -> None:
    # LAME sometimes ends with a frame of nothing but padding, and then its header's padding
    # is wrong by up to 46 samples (4 lengths in 100): such a frame is dropped.
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
    """The length of a gapless decode, frame by frame."""
    with av.open(str(mp3), format="mp3") as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def _warnings(after: Loudness, settings: MergerSettings) -> Iterator[str]:
    reached, peak = after.integrated_lufs, after.true_peak_dbtp
    if reached is not None and reached < settings.loudness_lufs - _OFF_TARGET_LU:
        yield (
            f"the track reaches {reached:.1f} LUFS instead of {settings.loudness_lufs:g}: "
            f"its peaks allow no more"
        )
    if peak is not None and peak > settings.true_peak_dbtp:
        yield f"the track peaks at {peak:.2f} dBTP, above {settings.true_peak_dbtp:g}"
