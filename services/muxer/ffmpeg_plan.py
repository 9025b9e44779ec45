"""Plan: how the track is fitted to the picture, as ffmpeg's arguments.

The picture decides the length and is copied; the sound is fitted to it exactly: a tempo where
the sync mode asks for one, then silence or a cut to the sample. `-shortest` is never used, so
the music neither cuts the picture nor outlasts it; streams are mapped by name, so the video's
own sound never wins over the music.

Units: lengths are samples at 48 kHz. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shared.contract.params import SyncMode
from shared.errors import MediaError
from shared.media.samples import SAMPLE_RATE_HZ, samples_at, seconds_at

COMPRESS_TEMPO_MIN, COMPRESS_TEMPO_MAX = 0.5, 2.0
AAC_FRAME_SAMPLES = 1024
_WORTH_A_WARNING = samples_at(0.5)  # a difference people hear as missing or added music
_ALLOC_BYTES_MAX = 512 * 1024 * 1024  # of one allocation; a frame of 8K takes a tenth


class TempoFilter(StrEnum):
    """The filters that change tempo and keep pitch, the better one first."""

    RUBBERBAND = "rubberband"
    ATEMPO = "atempo"


#: the tempi one stage of a filter does well; others take several stages
_STAGE = {TempoFilter.RUBBERBAND: (0.1, 10.0), TempoFilter.ATEMPO: (0.5, 2.0)}
#: "crisp", the default, warbles: a held chord came back at 0 dB over its own artefacts, "mixed"
#: at 8 to 28 dB, with bursts as much in time (tempo 0.5 to 2)
_OPTIONS = {TempoFilter.RUBBERBAND: ":transients=mixed:channels=together", TempoFilter.ATEMPO: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class MuxPlan:
    """The track's way to the picture's length."""

    samples: int  #: of the result's sound: the picture's length
    tempo: float  #: above 1: faster than it was made
    filters: str  #: ffmpeg's audio filter chain
    warnings: tuple[str, ...] = ()


def plan(
    *, picture_samples: int, track_samples: int, mode: SyncMode, tempo_filter: TempoFilter
) -> MuxPlan:
    """Fit `track_samples` of music to `picture_samples` of picture.

    Raises:
        MediaError: `compress` would need a tempo outside its range.
    """
    assert picture_samples > 0, "the probe refuses a picture without length"
    assert track_samples > 0, "the merger makes no empty track"
    tempo = _tempo(picture_samples, track_samples, mode)
    stages = _stages(tempo, tempo_filter)
    fit = (
        f"aresample={SAMPLE_RATE_HZ}",
        "aformat=sample_fmts=fltp:channel_layouts=stereo",
        *stages,
        f"apad=whole_len={picture_samples}",
        f"atrim=end_sample={picture_samples}",
    )
    return MuxPlan(
        samples=picture_samples,
        tempo=tempo,
        filters=",".join(fit),
        warnings=_warnings(picture_samples, track_samples, mode, tempo),
    )


def ffmpeg_args(
    plan: MuxPlan, *, demuxer: str, guard: Sequence[str], video: Path, track: Path, target: Path
) -> list[str]:
    """The arguments that put `track` under the picture of `video`; `guard` before each input."""
    inputs = (
        *(*guard, "-f", demuxer, "-i", str(video)),
        *(*guard, "-f", "mp3", "-i", str(track)),
    )
    picture = ("-map", "0:V:0", "-c:v", "copy")  # V: a picture that moves, not cover art
    sound = ("-map", "1:a:0", "-af", plan.filters, "-c:a", "aac", "-b:a", "192k")
    nothing_else = ("-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn", "-bitexact")
    file = ("-movflags", "+faststart", "-f", "mp4", str(target))
    limits = ("-v", "error", "-max_alloc", str(_ALLOC_BYTES_MAX))
    return [*limits, *inputs, *picture, *sound, *nothing_else, *file]


def _tempo(picture_samples: int, track_samples: int, mode: SyncMode) -> float:
    if mode is SyncMode.TRIM or abs(track_samples - picture_samples) <= AAC_FRAME_SAMPLES:
        return 1.0  # below a frame of AAC nobody hears the end, but everybody a stretch
    tempo = track_samples / picture_samples
    if mode is SyncMode.COMPRESS and not COMPRESS_TEMPO_MIN <= tempo <= COMPRESS_TEMPO_MAX:
        raise MediaError(
            f"sync_mode compress: the scenes are {_seconds(track_samples)} and the video "
            f"{_seconds(picture_samples)}, a ratio of {tempo:.2f}; compress reaches "
            f"{COMPRESS_TEMPO_MIN} to {COMPRESS_TEMPO_MAX}. Ask for sync_mode stretch or trim, "
            "or for scenes that add up to the video's length",
            code="tempo_out_of_range",
        )
    return tempo


def _stages(tempo: float, tempo_filter: TempoFilter) -> list[str]:
    if tempo == 1.0:
        return []
    slowest, fastest = _STAGE[tempo_filter]
    reach = math.log(fastest) if tempo > 1 else -math.log(slowest)
    count = math.ceil(abs(math.log(tempo)) / reach - 1e-9)  # 2.0 is one stage of 2.0
    each = min(max(tempo ** (1 / count), slowest), fastest)
    return [f"{tempo_filter}=tempo={each:.9f}{_OPTIONS[tempo_filter]}"] * count


def _warnings(
    picture_samples: int, track_samples: int, mode: SyncMode, tempo: float
) -> tuple[str, ...]:
    if abs(track_samples - picture_samples) <= _WORTH_A_WARNING:
        return ()
    if mode is not SyncMode.TRIM:
        done = f"played at {tempo:.3f} times its tempo"
    elif track_samples > picture_samples:
        done = "trimmed"
    else:
        done = "the rest is silent"
    lengths = f"the scenes are {_seconds(track_samples)}, the video {_seconds(picture_samples)}"
    return (f"{lengths}: {done}",)


def _seconds(samples: int) -> str:
    return f"{seconds_at(samples):.1f} s"
