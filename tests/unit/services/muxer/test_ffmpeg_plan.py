"""Tests of the mux plan: length of the sound, tempo, warnings and ffmpeg arguments."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.muxer.ffmpeg_plan import (
    AAC_FRAME_SAMPLES,
    MuxPlan,
    TempoFilter,
    ffmpeg_args,
    plan,
)
from shared.contract.params import COMPRESS_TEMPO_MAX, COMPRESS_TEMPO_MIN, SyncMode
from shared.errors import MediaError

SECOND = 48_000
LENGTHS = st.integers(min_value=1, max_value=6 * 3600 * SECOND)
FILTERS = st.sampled_from(TempoFilter)


def planned(
    picture_s: float,
    track_s: float,
    mode: SyncMode,
    tempo_filter: TempoFilter = TempoFilter.RUBBERBAND,
) -> MuxPlan:
    """Return a plan for lengths in seconds."""
    return plan(
        picture_samples=round(picture_s * SECOND),
        track_samples=round(track_s * SECOND),
        mode=mode,
        tempo_filter=tempo_filter,
    )


def stages_of(filters: str) -> list[float]:
    """Return the tempos of a filter chain, in order."""
    return [float(tempo) for tempo in re.findall(r"(?:rubberband|atempo)=tempo=([\d.]+)", filters)]


@given(LENGTHS, LENGTHS, FILTERS)
def test_stretch_reaches_any_ratio_in_stages_within_the_filters_range(
    picture: int, track: int, tempo_filter: TempoFilter
) -> None:
    """The product of the stages is the ratio."""
    assume(abs(picture - track) > AAC_FRAME_SAMPLES)
    result = plan(
        picture_samples=picture,
        track_samples=track,
        mode=SyncMode.STRETCH,
        tempo_filter=tempo_filter,
    )

    stages = stages_of(result.filters)
    low, high = (0.1, 10.0) if tempo_filter is TempoFilter.RUBBERBAND else (0.5, 2.0)

    assert all(low <= stage <= high for stage in stages)
    assert math.prod(stages) == pytest.approx(track / picture, rel=1e-6)
    assert result.tempo == pytest.approx(track / picture)


@given(LENGTHS, LENGTHS, st.sampled_from([SyncMode.TRIM, SyncMode.STRETCH]))
def test_the_sound_is_padded_and_cut_to_the_length_of_the_picture(
    picture: int, track: int, mode: SyncMode
) -> None:
    """The last two filters correct what a tempo leaves over or short."""
    result = plan(
        picture_samples=picture,
        track_samples=track,
        mode=mode,
        tempo_filter=TempoFilter.ATEMPO,
    )

    assert result.samples == picture
    assert result.filters.endswith(f",apad=whole_len={picture},atrim=end_sample={picture}")


@given(LENGTHS, LENGTHS)
def test_trim_never_changes_the_tempo(picture: int, track: int) -> None:
    """It only cuts or pads."""
    result = plan(
        picture_samples=picture,
        track_samples=track,
        mode=SyncMode.TRIM,
        tempo_filter=TempoFilter.RUBBERBAND,
    )

    assert result.tempo == 1.0
    assert stages_of(result.filters) == []


@pytest.mark.parametrize(("track_s", "stages"), [(5.0, [0.5]), (20.0, [2.0]), (11.7, [1.17])])
@pytest.mark.parametrize("tempo_filter", TempoFilter)
def test_compress_takes_one_stage_up_to_its_limits(
    track_s: float, stages: list[float], tempo_filter: TempoFilter
) -> None:
    """0.5 and 2.0 are allowed."""
    result = planned(10.0, track_s, SyncMode.COMPRESS, tempo_filter)

    assert stages_of(result.filters) == pytest.approx(stages)


@pytest.mark.parametrize(("track_s", "ratio"), [(4.9, "0.49"), (20.2, "2.02"), (300.0, "30.00")])
def test_compress_out_of_range_names_the_ratio_and_the_alternatives(
    track_s: float, ratio: str
) -> None:
    """The message has the ratio, the range and what to use instead."""
    with pytest.raises(MediaError, match=re.escape(ratio)) as caught:
        planned(10.0, track_s, SyncMode.COMPRESS)

    assert caught.value.code == "tempo_out_of_range"
    for word in ("sync_mode", f"{COMPRESS_TEMPO_MIN} to {COMPRESS_TEMPO_MAX}", "stretch or trim"):
        assert word in caught.value.reason


@pytest.mark.parametrize("mode", [SyncMode.STRETCH, SyncMode.COMPRESS])
def test_a_difference_below_one_aac_frame_does_not_stretch(mode: SyncMode) -> None:
    """21 ms at the end are inaudible; a time stretch may not be."""
    same = plan(
        picture_samples=10 * SECOND,
        track_samples=10 * SECOND + AAC_FRAME_SAMPLES,
        mode=mode,
        tempo_filter=TempoFilter.RUBBERBAND,
    )
    more = plan(
        picture_samples=10 * SECOND,
        track_samples=10 * SECOND + AAC_FRAME_SAMPLES + 1,
        mode=mode,
        tempo_filter=TempoFilter.RUBBERBAND,
    )

    assert same.tempo == 1.0
    assert more.tempo > 1.0


@pytest.mark.parametrize(
    ("track_s", "mode", "warnings"),
    [
        (12.0, SyncMode.TRIM, ("the scenes last 12.0 s, the video 10.0 s: trimmed",)),
        (8.0, SyncMode.TRIM, ("the scenes last 8.0 s, the video 10.0 s: the rest is silent",)),
        (
            12.0,
            SyncMode.STRETCH,
            ("the scenes last 12.0 s, the video 10.0 s: played at 1.200 times its tempo",),
        ),
        (10.5, SyncMode.TRIM, ()),
        (9.5, SyncMode.STRETCH, ()),
    ],
)
def test_a_difference_above_half_a_second_adds_a_warning(
    track_s: float, mode: SyncMode, warnings: tuple[str, ...]
) -> None:
    """The warning says what was done to the music."""
    assert planned(10.0, track_s, mode).warnings == warnings


def test_the_arguments_guard_every_input_and_map_every_stream() -> None:
    """Each input has the guard and its demuxer; the picture is copied, the music is mapped."""
    args = ffmpeg_args(
        planned(10.0, 9.0, SyncMode.TRIM),
        demuxer="matroska",
        guard=("-protocol_whitelist", "file,pipe"),
        video=Path("/v/video"),
        track=Path("/v/track.mp3"),
        target=Path("/v/out.mp4"),
    )
    command = " ".join(args)

    assert "-protocol_whitelist file,pipe -f matroska -i file:/v/video" in command
    assert "-protocol_whitelist file,pipe -f mp3 -i file:/v/track.mp3" in command
    assert "-map 0:V:0 -c:v copy -map 1:a:0" in command
    assert "-c:a aac -b:a 192k" in command
    assert "-movflags +faststart -f mp4 file:/v/out.mp4" in command
    assert "-shortest" not in args


@pytest.mark.parametrize(("picture_s", "track_s"), [(0, 1), (1, 0)])
def test_an_empty_picture_or_track_is_a_bug(picture_s: float, track_s: float) -> None:
    """The probe and the merger never produce one."""
    with pytest.raises(AssertionError):
        planned(picture_s, track_s, SyncMode.TRIM)
