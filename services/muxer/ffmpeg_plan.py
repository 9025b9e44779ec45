"""Plans how the track is fitted to the picture, as ffmpeg arguments.

The picture decides the length and is copied. The track is fitted to it to the sample: a tempo if
the sync mode asks for one, then padding or a cut. `-shortest` is never used, so the music neither
cuts the picture nor outlasts it; streams are mapped explicitly, so the video's own sound is never
chosen over the music.

Units: lengths are samples at 48 kHz. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.muxer.kept_parts import NOTHING_ELSE
from shared.contract.params import COMPRESS_TEMPO_MAX, COMPRESS_TEMPO_MIN, SyncMode
from shared.errors import MediaError
from shared.media.paths import media_path
from shared.media.samples import SAMPLE_RATE_HZ, samples_at, seconds_at

AAC_FRAME_SAMPLES = 1024
_WARNING_SAMPLES = samples_at(0.5)  # a larger difference is audible as missing or added music
_ALLOC_BYTES_MAX = 512 * 1024 * 1024  # of one allocation; an 8K frame takes a tenth


class TempoFilter(StrEnum):
    """Filters that change the tempo and keep the pitch, the better one first."""

    RUBBERBAND = "rubberband"
    ATEMPO = "atempo"


#: tempo range of one stage of a filter; other tempos take several stages
_STAGE = {TempoFilter.RUBBERBAND: (0.1, 10.0), TempoFilter.ATEMPO: (0.5, 2.0)}
#: "crisp", the default, warbles: a held chord measures 0 dB over its artefacts, with "mixed" 8 to
#: 28 dB, and bursts are as exact in time (tempo 0.5 to 2)
_OPTIONS = {TempoFilter.RUBBERBAND: ":transients=mixed:channels=together", TempoFilter.ATEMPO: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class MuxPlan:
    """How the track reaches the picture's length."""

    samples: int  #: length of the resulting sound, equal to the picture's
    track_samples: int  #: length of the track before it is fitted
    tempo: float  #: above 1: faster than the track
    filters: str  #: ffmpeg's audio filter chain
    warnings: tuple[str, ...] = ()


def plan(
    *, picture_samples: int, track_samples: int, mode: SyncMode, tempo_filter: TempoFilter
) -> MuxPlan:
    """Return the plan that fits `track_samples` of music to `picture_samples` of picture.

    Raises:
        MediaError: `compress` would need a tempo outside its range.
    """
    assert picture_samples > 0, "the probe rejects a picture without length"
    assert track_samples > 0, "the merger never makes an empty track"
    tempo = _tempo(picture_samples, track_samples, mode)
    stages = _stages(tempo, tempo_filter)
    filters = (
        f"aresample={SAMPLE_RATE_HZ}",
        "aformat=sample_fmts=fltp:channel_layouts=stereo",
        *stages,
        f"apad=whole_len={picture_samples}",
        f"atrim=end_sample={picture_samples}",
    )
    return MuxPlan(
        samples=picture_samples,
        track_samples=track_samples,
        tempo=tempo,
        filters=",".join(filters),
        warnings=_warnings(picture_samples, track_samples, mode, tempo),
    )


def ffmpeg_args(
    plan: MuxPlan,
    *,
    demuxer: str,
    guard: Sequence[str],
    video: Path,
    track: Path,
    target: Path,
    lead_s: float = 0.0,
    beside: Sequence[str] = NOTHING_ELSE,
) -> list[str]:
    """Return the ffmpeg arguments; `guard` precedes each input.

    `lead_s` is the time before the video's first stream that is kept. `beside` says what the
    result has beside picture and music, as in `kept_parts`.
    """
    lead = ("-itsoffset", f"{lead_s:.6f}") if lead_s else ()
    inputs = (
        *(*guard, *lead, "-f", demuxer, "-i", media_path(video)),
        *(*guard, "-f", "mp3", "-i", media_path(track)),
    )
    picture = ("-map", "0:V:0", "-c:v", "copy")  # V: excludes cover art
    sound = ("-map", "1:a:0", "-af", plan.filters, "-c:a", "aac", "-b:a", "192k")
    # unofficial: boxes of spherical and stereoscopic pictures and of Dolby Vision
    file = ("-strict", "unofficial", "-movflags", "+faststart", "-f", "mp4", media_path(target))
    limits = ("-v", "error", "-max_alloc", str(_ALLOC_BYTES_MAX))
    return [*limits, *inputs, *picture, *sound, *beside, "-bitexact", *file]


def _tempo(picture_samples: int, track_samples: int, mode: SyncMode) -> float:
    if mode is SyncMode.TRIM or abs(track_samples - picture_samples) <= AAC_FRAME_SAMPLES:
        return 1.0  # a stretch is audible, less than one AAC frame at the end is not
    tempo = track_samples / picture_samples
    if mode is SyncMode.COMPRESS and not COMPRESS_TEMPO_MIN <= tempo <= COMPRESS_TEMPO_MAX:
        raise MediaError(
            f"sync_mode compress: the scenes last {_seconds(track_samples)} and the video "
            f"{_seconds(picture_samples)}, a ratio of {tempo:.2f}; compress allows "
            f"{COMPRESS_TEMPO_MIN} to {COMPRESS_TEMPO_MAX}. Use sync_mode stretch or trim, "
            "or scenes that add up to the video's length",
            code="tempo_out_of_range",
        )
    return tempo


def _stages(tempo: float, tempo_filter: TempoFilter) -> list[str]:
    if tempo == 1.0:
        return []
    slowest, fastest = _STAGE[tempo_filter]
    stage_range = math.log(fastest) if tempo > 1 else -math.log(slowest)
    count = math.ceil(abs(math.log(tempo)) / stage_range - 1e-9)  # 2.0 is one stage of 2.0
    each = min(max(tempo ** (1 / count), slowest), fastest)
    return [f"{tempo_filter}=tempo={each:.9f}{_OPTIONS[tempo_filter]}"] * count


def _warnings(
    picture_samples: int, track_samples: int, mode: SyncMode, tempo: float
) -> tuple[str, ...]:
    if abs(track_samples - picture_samples) <= _WARNING_SAMPLES:
        return ()
    if mode is not SyncMode.TRIM:
        done = f"played at {tempo:.3f} times its tempo"
    elif track_samples > picture_samples:
        done = "trimmed"
    else:
        done = "the rest is silent"
    lengths = f"the scenes last {_seconds(track_samples)}, the video {_seconds(picture_samples)}"
    return (f"{lengths}: {done}",)


def _seconds(samples: int) -> str:
    return f"{seconds_at(samples):.1f} s"
