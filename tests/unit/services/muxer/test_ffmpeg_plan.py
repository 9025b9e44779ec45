"""Plan: the sound is as long as the picture, in every mode, and its tempo is the promised one."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.muxer.ffmpeg_plan import (
    AAC_FRAME_SAMPLES,
    COMPRESS_TEMPO_MAX,
    COMPRESS_TEMPO_MIN,
    MuxPlan,
    TempoFilter,
    ffmpeg_args,
    plan,
)
from shared.contract.params import SyncMode
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
    """A plan from seconds."""
    return plan(
        picture_samples=round(picture_s * SECOND),
        track_samples=round(track_s * SECOND),
        mode=mode,
        tempo_filter=tempo_filter,
    )


def stages_of(filters: str) -> list[float]:
    """The tempi of a filter chain, in order."""
    return [float(tempo) for tempo in re.findall(r"(?:rubberband|atempo)=tempo=([\d.]+)", filters)]


@given(LENGTHS, LENGTHS, FILTERS)
def test_stretch_reaches_any_ratio_in_stages_the_filter_can_do(
    picture: int, track: int, tempo_filter: TempoFilter
) -> None:
    """The product of the stages is the ratio, and no stage leaves the filter's range."""
    assume(abs(picture - track) > AAC_FRAME_SAMPLES)
    found = plan(
        picture_samples=picture,
        track_samples=track,
        mode=SyncMode.STRETCH,
        tempo_filter=tempo_filter,
    )

    stages = stages_of(found.filters)
    low, high = (0.1, 10.0) if tempo_filter is TempoFilter.RUBBERBAND else (0.5, 2.0)

    assert all(low <= stage <= high for stage in stages)
    assert math.prod(stages) == pytest.approx(track / picture, rel=1e-6)
    assert found.tempo == pytest.approx(track / picture)


@given(LENGTHS, LENGTHS, st.sampled_from([SyncMode.TRIM, SyncMode.STRETCH]))
def test_the_sound_is_padded_and_cut_to_the_picture_to_the_sample(
    picture: int, track: int, mode: SyncMode
) -> None:
    """Whatever a tempo leaves over or short, the last two filters set right."""
    found = plan(
        picture_samples=picture,
        track_samples=track,
        mode=mode,
        tempo_filter=TempoFilter.ATEMPO,
    )

    assert found.samples == picture
    assert found.filters.endswith(f",apad=whole_len={picture},atrim=end_sample={picture}")


@given(LENGTHS, LENGTHS)
def test_trim_never_changes_the_tempo(picture: int, track: int) -> None:
    """Trim means cut or pad, and nothing else."""
    found = plan(
        picture_samples=picture,
        track_samples=track,
        mode=SyncMode.TRIM,
        tempo_filter=TempoFilter.RUBBERBAND,
    )

    assert found.tempo == 1.0
    assert stages_of(found.filters) == []


@pytest.mark.parametrize(("track_s", "stages"), [(5.0, [0.5]), (20.0, [2.0]), (11.7, [1.17])])
@pytest.mark.parametrize("tempo_filter", TempoFilter)
def test_compress_takes_one_stage_and_its_limits_belong_to_it(
    track_s: float, stages: list[float], tempo_filter: TempoFilter
) -> None:
    """One half and double are inside."""
    found = planned(10.0, track_s, SyncMode.COMPRESS, tempo_filter)

    assert stages_of(found.filters) == pytest.approx(stages)


@pytest.mark.parametrize(("track_s", "ratio"), [(4.9, "0.49"), (20.2, "2.02"), (300.0, "30.00")])
def test_compress_outside_its_range_names_the_ratio_and_the_way_out(
    track_s: float, ratio: str
) -> None:
    """The person learns what was asked, how far it reaches, and what to ask instead."""
    with pytest.raises(MediaError, match=re.escape(ratio)) as caught:
        planned(10.0, track_s, SyncMode.COMPRESS)

    assert caught.value.code == "tempo_out_of_range"
    for word in ("sync_mode", f"{COMPRESS_TEMPO_MIN} to {COMPRESS_TEMPO_MAX}", "stretch or trim"):
        assert word in caught.value.reason


@pytest.mark.parametrize("mode", [SyncMode.STRETCH, SyncMode.COMPRESS])
def test_a_difference_below_one_frame_of_aac_is_no_reason_to_stretch(mode: SyncMode) -> None:
    """Nobody hears 21 ms at the end; everybody may hear a time stretch."""
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
        (12.0, SyncMode.TRIM, ("the scenes are 12.0 s, the video 10.0 s: trimmed",)),
        (8.0, SyncMode.TRIM, ("the scenes are 8.0 s, the video 10.0 s: the rest is silent",)),
        (
            12.0,
            SyncMode.STRETCH,
            ("the scenes are 12.0 s, the video 10.0 s: played at 1.200 times its tempo",),
        ),
        (10.5, SyncMode.TRIM, ()),
        (9.5, SyncMode.STRETCH, ()),
    ],
)
def test_more_than_half_a_second_of_difference_is_said(
    track_s: float, mode: SyncMode, warnings: tuple[str, ...]
) -> None:
    """What happened to the music stands in the event."""
    assert planned(10.0, track_s, mode).warnings == warnings


def test_the_arguments_guard_every_input_and_name_every_stream() -> None:
    """Each input has the guard and its demuxer; the picture is copied, the music is mapped."""
    args = ffmpeg_args(
        planned(10.0, 9.0, SyncMode.TRIM),
        demuxer="matroska",
        guard=("-protocol_whitelist", "file,pipe"),
        video=Path("/v/video"),
        track=Path("/v/track.mp3"),
        target=Path("/v/out.mp4"),
    )
    line = " ".join(args)

    assert "-protocol_whitelist file,pipe -f matroska -i /v/video" in line
    assert "-protocol_whitelist file,pipe -f mp3 -i /v/track.mp3" in line
    assert "-map 0:V:0 -c:v copy -map 1:a:0" in line
    assert "-c:a aac -b:a 192k" in line
    assert "-movflags +faststart -f mp4 /v/out.mp4" in line
    assert "-shortest" not in args
