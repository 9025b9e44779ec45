"""Tests of assembly: the length, the seams and the silences of a track."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.merger.assembly import Assembly, JoinRules
from services.merger.crossfade import click_ratio
from services.merger.placed_clip import EDGE_SAMPLES
from services.merger.timeline import check_run
from shared.contract.events import SegmentGenerated
from shared.contract.params import Transition
from shared.errors import InvalidEventError
from shared.media.samples import Audio, rms, silence
from tests.support.audio_builders import HEADERLESS_LATE_SAMPLES, Kind, Take, a_run_of_takes, music
from tests.support.event_builders import a_segment

BLEND = 4800
FRAME = 960  # 20 ms


def assembled(
    takes: Sequence[Take], *, transition: Transition = Transition.AUTO, fade: int = 48_000
) -> tuple[Audio, Assembly]:
    """Return the track of a run."""
    rules = JoinRules(transition=transition, fade_samples=fade, crossfade_samples=BLEND)
    assembly = Assembly([take.segment for take in takes], rules)
    blocks = [block for i, take in enumerate(takes) for block in assembly.add(i, take.clip)]
    return np.concatenate([*blocks, *assembly.finish()], axis=1), assembly


def levels_db(audio: Audio) -> NDArray[np.float64]:
    """Return the level of each 20 ms in dB."""
    frames = audio[:, : audio.shape[1] // FRAME * FRAME].reshape(2, -1, FRAME)
    powers = np.mean(np.square(frames, dtype=np.float64), axis=(0, 2)) + 1e-20
    return np.asarray(10 * np.log10(powers), dtype=np.float64)


def shortened(take: Take, samples: int) -> Take:
    """Return the take with a clip shorter than its event declares."""
    assert take.clip is not None
    clip = take.clip[:, :samples]
    return replace(take, clip=clip)


scene_lengths = st.lists(
    st.sampled_from([0.01, 0.05, 0.3, 0.5, 1, 1.7, 2.333, 3]), min_size=1, max_size=7
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), durations=scene_lengths, transition=st.sampled_from(Transition))
def test_the_track_is_as_long_as_its_scenes(
    data: st.DataObject, durations: list[float], transition: Transition
) -> None:
    """To the sample, with every kind of scene, short clips and long fades."""
    kinds: list[Kind] = data.draw(
        st.lists(
            st.sampled_from(["continued", "fresh", "silence"]),
            min_size=len(durations),
            max_size=len(durations),
        )
    )
    fade = data.draw(st.sampled_from([0, 4800, 48_000, 480_000]))
    takes = a_run_of_takes(durations, kinds=kinds)
    for index, take in enumerate(takes):
        if take.clip is not None and data.draw(st.integers(0, 3)) == 0:
            share = data.draw(st.floats(0.01, 1))
            takes[index] = shortened(take, max(1, int(take.clip.shape[1] * share)))

    track, assembly = assembled(takes, transition=transition, fade=fade)

    assert track.shape == (2, sum(take.segment.samples for take in takes))
    assert track.dtype == np.float32
    assert np.isfinite(track).all()
    assert [seam.at_samples for seam in assembly.seams] == sorted(
        seam.at_samples for seam in assembly.seams
    )


@settings(max_examples=20, deadline=None)
@given(
    durations=st.lists(st.sampled_from([0.05, 0.7, 1.3, 2, 2.9]), min_size=1, max_size=5),
    gains=st.lists(st.floats(-2.9, 2.9), min_size=6, max_size=6),
)
def test_a_continued_run_is_the_piece_itself_at_one_level(
    durations: list[float], gains: list[float]
) -> None:
    """Nothing is repeated or missing, without a dip or a step."""
    durations = [*durations, 2.0]  # long enough for the last clip to enter
    takes = a_run_of_takes(durations, gains_db=gains[: len(durations)])

    track, assembly = assembled(takes)

    piece = music(np.arange(track.shape[1])) * np.float32(10 ** (gains[0] / 20))
    np.testing.assert_allclose(track[:, :-EDGE_SAMPLES], piece[:, :-EDGE_SAMPLES], atol=2e-3)
    assert {seam.kind for seam in assembly.seams} == {"splice"}
    assert assembly.warnings == []


def test_a_splice_through_mp3_has_neither_step_nor_click_nor_dip() -> None:
    """Limits: 1 dB of level, click ratio 10; measured: 0.3 dB and below 6."""
    takes = a_run_of_takes([3.4, 2.7, 4], gains_db=[0, 4, -1.5], as_mp3=True)

    track, assembly = assembled(takes)

    piece = music(np.arange(track.shape[1]))
    drift = levels_db(track)[:-1] - levels_db(piece)[:-1]
    assert np.ptp(drift) < 1.0
    for seam in assembly.seams:
        near = track[:, seam.at_samples - BLEND - 2400 : seam.at_samples + 2400]
        click = click_ratio(near)
        assert click is not None
        assert click < 10
        assert seam.level_step_db == pytest.approx(0, abs=1)
        assert seam.correlation is not None
        assert seam.correlation > 0.9
    assert [seam.gain_db for seam in assembly.seams] == pytest.approx([-4, 1.5], abs=0.3)


def test_clips_without_an_mp3_header_are_aligned_by_their_lag() -> None:
    """Each is 35 ms late, measured in its window."""
    takes = a_run_of_takes([3, 3, 3], as_mp3=True, header=False)

    track, assembly = assembled(takes)

    assert [seam.lag_samples for seam in assembly.seams] == pytest.approx(
        [HEADERLESS_LATE_SAMPLES] * 2, abs=1
    )
    piece = music(np.arange(track.shape[1]) - HEADERLESS_LATE_SAMPLES)
    compared = slice(
        HEADERLESS_LATE_SAMPLES + 2400, 9 * 48_000 - 2 * HEADERLESS_LATE_SAMPLES - 48_000
    )
    error = rms(track[:, compared] - piece[:, compared]) / rms(piece[:, compared])
    assert error < 0.15  # the loss of MP3 at 96 kb/s


def test_the_gain_of_a_seam_is_limited_and_the_rest_is_reported_as_a_step() -> None:
    """Of 12 dB, 6 are applied and 6 remain."""
    takes = a_run_of_takes([2, 2], gains_db=[0, -12])

    _, assembly = assembled(takes)

    assert assembly.seams[0].gain_db == pytest.approx(6)
    assert assembly.seams[0].level_step_db == pytest.approx(-6, abs=0.05)


def test_the_gain_of_a_long_chain_stays_below_12_db() -> None:
    """Each clip is 2 dB quieter than the last."""
    takes = a_run_of_takes([1.0] * 12, gains_db=[-2.0 * index for index in range(12)])

    _, assembly = assembled(takes)

    gains = [seam.gain_db for seam in assembly.seams]
    assert max(gains) <= 12
    assert gains[2] == pytest.approx(6, abs=0.01)
    assert gains[3] == pytest.approx(8, abs=0.01)
    assert gains[4] == pytest.approx(9, abs=0.01)  # 8 glided back to 7, plus 2


def test_segments_that_do_not_continue_fade_out_and_in_at_the_scene() -> None:
    """Gain 0.5 in the middle of a fade, 0 at the cut, 1 outside; the track's ends do not fade."""
    takes = a_run_of_takes([3, 3], kinds=["fresh", "fresh"])

    track, assembly = assembled(takes, fade=48_000)

    assert [(seam.kind, seam.at_samples) for seam in assembly.seams] == [("fade", 144_000)]
    first, second = takes[0].clip, takes[1].clip
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(track[:, :96_000], first[:, :96_000])
    np.testing.assert_allclose(track[:, 120_000], first[:, 120_000] * 0.5, rtol=1e-3)
    np.testing.assert_allclose(track[:, 168_000], second[:, 24_000] * 0.5, rtol=1e-3)
    np.testing.assert_allclose(track[:, 143_999:144_001], 0, atol=1e-6)
    np.testing.assert_allclose(track[:, 192_000:287_000], second[:, 48_000:143_000])


def test_a_fade_of_0_does_not_click() -> None:
    """It becomes 5 ms."""
    track, _ = assembled(a_run_of_takes([2, 2], kinds=["fresh", "fresh"]), fade=0)

    click = click_ratio(track[:, 96_000 - 2400 : 96_000 + 2400])
    assert click is not None
    assert click < 10
    np.testing.assert_allclose(track[:, 95_999], 0, atol=1e-4)
    assert levels_db(track)[99 - 2] == pytest.approx(levels_db(track)[99 - 4], abs=6)


def test_fades_too_long_for_a_segment_are_shortened_with_a_warning() -> None:
    """1 s in, 1 s out, 0.5 s of music."""
    takes = a_run_of_takes([2, 0.5, 2], kinds=["fresh", "fresh", "fresh"])

    track, assembly = assembled(takes)

    middle = track[:, 96_000:120_000]
    assert rms(middle[:, 11_000:13_000]) > 4 * rms(middle[:, :2000])
    assert any(text.startswith("scene 2: its music of 0.50 s") for text in assembly.warnings)


def test_with_fades_a_continued_clip_fades_too() -> None:
    """Every scene begins at its start with its own part of the music; nothing is repeated."""
    takes = a_run_of_takes([2.5, 2.5, 2.5], gains_db=[0, 0, 0])

    track, assembly = assembled(takes, transition=Transition.FADE, fade=4800)

    assert [(seam.kind, seam.at_samples) for seam in assembly.seams] == [
        ("fade", 120_000),
        ("fade", 240_000),
    ]
    piece = music(np.arange(track.shape[1]))
    for start in (4800, 124_800, 244_800):
        here = slice(start, start + 110_000)
        np.testing.assert_allclose(track[:, here], piece[:, here], atol=1e-4)
    assert assembly.warnings == []


def test_a_silent_scene_is_silent_from_its_first_sample_to_its_last() -> None:
    """The clip before it is cut."""
    takes = a_run_of_takes([2.5, 1.5, 2], kinds=["fresh", "silence", "fresh"])

    track, assembly = assembled(takes)

    assert not track[:, 120_000:192_000].any()
    assert rms(track[:, 240_000:280_000]) > 0.01
    assert [(seam.scene_index, seam.kind) for seam in assembly.seams] == [(1, "fade"), (2, "fade")]


def test_music_continued_after_silence_keeps_its_level() -> None:
    """The gain follows the window, which was played before the silence and is not repeated."""
    takes = a_run_of_takes([3, 1, 3], kinds=["fresh", "silence", "continued"], gains_db=[0, 0, 5])

    track, assembly = assembled(takes)

    after = track[:, 192_000 + 48_000 :]
    piece = music(144_000 + 48_000 + np.arange(after.shape[1]))
    edge = slice(0, -EDGE_SAMPLES)
    np.testing.assert_allclose(after[:, edge], piece[:, edge], atol=2e-3)
    assert assembly.seams[1].kind == "fade"
    assert assembly.seams[1].gain_db == pytest.approx(-5, abs=0.01)


def test_a_clip_that_ends_early_leaves_silence_and_a_warning_with_its_scene() -> None:
    """The length of the track does not change."""
    takes = a_run_of_takes([2, 4, 2], kinds=["fresh", "fresh", "fresh"])
    takes[1] = shortened(takes[1], 3 * 48_000)

    track, assembly = assembled(takes, fade=4800)

    assert not track[:, 96_000 + 3 * 48_000 : 96_000 + 4 * 48_000].any()
    assert "scene 2: its clip is 1.00 s too short; the rest is silent" in assembly.warnings


def test_a_clip_that_ends_inside_the_next_window_is_spliced_where_it_ends() -> None:
    """The next clip repeats enough music: no gap, no warning."""
    takes = a_run_of_takes([3, 3])
    takes[0] = shortened(takes[0], 3 * 48_000 - 12_000)

    track, assembly = assembled(takes)

    piece = music(np.arange(track.shape[1]))
    np.testing.assert_allclose(track[:, :-EDGE_SAMPLES], piece[:, :-EDGE_SAMPLES], atol=2e-3)
    assert assembly.seams[0].at_samples == 3 * 48_000 - 12_000
    assert assembly.warnings == []


def test_a_scene_that_ends_before_its_clip_enters_keeps_the_previous_music() -> None:
    """The clip of the first scene plays through all of them, with a warning each."""
    takes = a_run_of_takes([0.3, 0.05, 0.05, 0.3])

    track, assembly = assembled(takes)

    piece = music(np.arange(track.shape[1]))
    np.testing.assert_allclose(track[:, :-EDGE_SAMPLES], piece[:, :-EDGE_SAMPLES])
    assert assembly.seams == []
    assert len(assembly.warnings) == 3


def test_blocks_and_pending_audio_stay_small_for_a_long_track() -> None:
    """Blocks of 5 s; between clips at most one crossfade is held back."""
    takes = a_run_of_takes([12.0, 9.0, 3.0])
    rules = JoinRules(transition=Transition.AUTO, fade_samples=48_000, crossfade_samples=BLEND)
    assembly = Assembly([take.segment for take in takes], rules)

    sizes = []
    for index, take in enumerate(takes):
        sizes += [block.shape[1] for block in assembly.add(index, take.clip)]
        assert assembly._pending.shape[1] <= BLEND
    sizes += [block.shape[1] for block in assembly.finish()]

    assert max(sizes) <= 5 * 48_000 + BLEND
    assert sum(sizes) == 24 * 48_000


def test_check_run_rejects_segments_of_another_run_and_gaps() -> None:
    """The message names the scene."""
    segments = [take.segment for take in a_run_of_takes([1, 1, 1])]
    check_run(segments)

    other_run = [segments[0], segments[1].model_copy(update={"run": 2}), segments[2]]
    with pytest.raises(InvalidEventError, match="segment of scene 2"):
        check_run(other_run)

    gap = [segments[0], segments[1].model_copy(update={"start_samples": 48_001}), segments[2]]
    with pytest.raises(InvalidEventError, match="scene 2 starts at sample 48001"):
        check_run(gap)


@pytest.mark.parametrize(("duration_s", "enters"), [(0.505, True), (0.504, False)])
def test_a_clip_enters_if_it_can_still_fade_before_the_next_one(
    duration_s: float, *, enters: bool
) -> None:
    """Scene 1 joins at 1 s, and scene 2 fades in 5 or 4 ms later."""
    kinds: list[Kind] = ["fresh", "continued", "fresh"]
    takes = a_run_of_takes([0.5, duration_s, 2], kinds=kinds)

    _, assembly = assembled(takes)

    skipped = "scene 2 ends before its music could enter"
    assert (skipped not in assembly.warnings) is enters


def a_padded_run(padding: int) -> list[SegmentGenerated]:
    """Return two scenes; the second joins half a second late, with a window of 3000 samples."""
    return [
        a_segment(0, count=2, samples=24_000),
        a_segment(
            1,
            count=2,
            start_samples=24_000,
            join_samples=48_000,
            window_samples=3000 + padding,
            padding_samples=padding,
        ),
    ]


@pytest.mark.parametrize("padding", [0, 1000])
def test_padding_is_not_blended_into_the_music_before_it(padding: int) -> None:
    """The splice is as long as the music of the window."""
    rules = JoinRules(transition=Transition.AUTO, fade_samples=4800, crossfade_samples=BLEND)
    assembly = Assembly(a_padded_run(padding), rules)
    list(assembly.add(0, music(np.arange(3 * 48_000))))
    window = music(np.arange(45_000, 3 * 48_000))

    spliced = assembly._splice(1, np.concatenate([silence(padding), window], axis=1))

    assert spliced is not None
    placed, _, blend_samples = spliced
    assert (placed.begin, blend_samples) == (48_000, 3000)


@pytest.mark.parametrize("padding", [0, 1000])
def test_with_fades_a_clip_enters_where_the_music_of_its_window_begins(padding: int) -> None:
    """Not where its padding begins."""
    rules = JoinRules(transition=Transition.FADE, fade_samples=4800, crossfade_samples=BLEND)
    assembly = Assembly(a_padded_run(padding), rules)

    for index in range(2):
        list(assembly.add(index, music(np.arange(3 * 48_000))))

    assert [seam.at_samples for seam in assembly.seams] == [45_000]


@pytest.mark.parametrize(("clip_s", "is_spliced"), [(2, True), (1.5, False)])
def test_a_clip_is_spliced_at_most_a_second_before_its_scene(
    clip_s: float, *, is_spliced: bool
) -> None:
    """The clip before it ends early; a larger gap is silent."""
    rules = JoinRules(transition=Transition.AUTO, fade_samples=4800, crossfade_samples=BLEND)
    segments = [
        a_segment(0, count=2, samples=144_000, clip_samples=144_000),
        a_segment(1, count=2, start_samples=144_000, join_samples=144_000, window_samples=96_000),
    ]
    assembly = Assembly(segments, rules)
    list(assembly.add(0, music(np.arange(int(clip_s * 48_000)))))

    spliced = assembly._splice(1, music(np.arange(48_000, 240_000)))

    assert (spliced is not None) is is_spliced


@pytest.mark.parametrize(("window", "may_splice"), [(2400, True), (2399, False)])
def test_fifty_milliseconds_of_common_music_are_enough_to_splice(
    window: int, *, may_splice: bool
) -> None:
    """Level and lag cannot be measured on less."""
    rules = JoinRules(transition=Transition.AUTO, fade_samples=4800, crossfade_samples=BLEND)
    segments = [a_segment(0, count=2), a_segment(1, count=2, window_samples=window)]

    assert Assembly(segments, rules)._may_splice(1) is may_splice
