"""Tests of the timeline: a cumulative clip replaces the clips that it holds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.assembly import WINDOW_SAMPLES_MIN, Assembly, JoinRules
from services.merger.placed_clip import EDGE_SAMPLES
from services.merger.timeline import build_timeline, check_run
from shared.contract.events import SegmentGenerated
from shared.contract.params import Transition
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms
from tests.support.audio_builders import Kind, Take, a_run_of_takes, music
from tests.support.event_builders import a_segment

FADE = 4800


def cumulative(takes: Sequence[Take], index: int, *, since: int, lost: int = 0) -> list[Take]:
    """Return the run where clip `index` holds all music from clip `since` on.

    `lost`: samples that are missing at its head.
    """
    take, first = takes[index], takes[since].segment
    assert take.clip is not None
    origin = first.join_samples - first.window_samples + lost
    old = take.segment.join_samples - origin
    new = take.clip.shape[1] - take.segment.window_samples
    places = take.piece_at + take.segment.window_samples - old + np.arange(old + new)
    clip = music(places, piece=take.piece) * np.float32(10 ** (take.gain_db / 20))
    fields = {"replaces": True, "window_samples": old, "clip_samples": clip.shape[1]}
    changed = list(takes)
    changed[index] = replace(take, clip=clip, segment=take.segment.model_copy(update=fields))
    return changed


def assemble_parts(
    takes: Sequence[Take], *, transition: Transition = Transition.AUTO
) -> tuple[Audio, Assembly]:
    """Return the track as the merger makes it; clips that are not needed are not read."""
    segments = [take.segment for take in takes]
    check_run(segments)
    parts = build_timeline(segments, separate=transition is Transition.FADE)
    clips = {take.segment.object_key: take.clip for take in takes}
    rules = JoinRules(transition=transition, fade_samples=FADE, crossfade_samples=FADE)
    assembly = Assembly(parts, rules)
    blocks = [b for i, part in enumerate(parts) for b in assembly.add(i, clips[part.object_key])]
    return np.concatenate([*blocks, *assembly.finish()], axis=1), assembly


def with_other_music(takes: Sequence[Take], indices: Sequence[int]) -> list[Take]:
    """Return the run with other music in these clips, which would be audible."""
    changed = list(takes)
    for index in indices:
        take = takes[index]
        if take.clip is not None:
            other = music(np.arange(take.clip.shape[1]), piece=take.piece + 1)
            changed[index] = replace(take, clip=other)
    return changed


def piece_of(track: Audio, gain_db: float = 0.0) -> Audio:
    """Return the music that the whole track should play."""
    return music(np.arange(track.shape[1])) * np.float32(10 ** (gain_db / 20))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), lengths=st.lists(st.sampled_from([1.2, 2, 2.9]), min_size=2, max_size=6))
def test_clips_that_a_cumulative_clip_replaces_are_not_played(
    data: st.DataObject, lengths: list[float]
) -> None:
    """For any range of replaced scenes the track is the piece at one level."""
    index = data.draw(st.integers(1, len(lengths) - 1))
    since = data.draw(st.integers(0, index - 1))
    gains = data.draw(st.lists(st.floats(-2.9, 2.9), min_size=6, max_size=6))
    takes = a_run_of_takes(lengths, gains_db=gains[: len(lengths)])
    takes = with_other_music(cumulative(takes, index, since=since), range(since, index))

    track, assembly = assemble_parts(takes)

    assert track.shape == (2, sum(take.segment.samples for take in takes))
    loud = gains[index] if since == 0 else gains[0]
    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track, loud)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    spliced = [k for k in range(1, len(lengths)) if k <= since or k > index]
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(k, "splice") for k in spliced]
    assert assembly.warnings == []


def test_the_last_of_several_cumulative_clips_is_played() -> None:
    """Each replaces the previous; the next clip is spliced to the last."""
    takes = a_run_of_takes([2, 2, 2, 2], gains_db=[0, 2, -2, 1])
    for index in (1, 2):
        takes = cumulative(takes, index, since=0)

    track, assembly = assemble_parts(with_other_music(takes, [0, 1]))

    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track, -2)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    assert [seam.scene_index for seam in assembly.seams] == [3]
    assert assembly.seams[0].gain_db == pytest.approx(-3, abs=0.01)


@pytest.mark.parametrize("since", [0, 2])
def test_a_silent_scene_stays_silent_and_the_music_before_it_is_not_replaced(since: int) -> None:
    """Whether the clip holds the whole track or only the clip before it."""
    kinds: list[Kind] = ["fresh", "silence", "continued", "continued"]
    takes = a_run_of_takes([2, 1.5, 2, 2], kinds=kinds)
    takes = cumulative(takes, 3, since=since)

    track, assembly = assemble_parts(with_other_music(takes, [2]))

    assert not track[:, 96_000:168_000].any()
    np.testing.assert_allclose(track[:, :90_000], piece_of(track)[:, :90_000], atol=3e-3)
    after = track[:, 168_000 + FADE : -EDGE_SAMPLES]
    expected = music(96_000 + FADE + np.arange(after.shape[1]))
    np.testing.assert_allclose(after, expected, atol=3e-3)
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(1, "fade"), (2, "fade")]


def test_a_cumulative_clip_right_after_silence_replaces_nothing() -> None:
    """It enters like any other clip."""
    kinds: list[Kind] = ["fresh", "silence", "continued"]
    takes = a_run_of_takes([2, 1.5, 2], kinds=kinds)
    segments = [take.segment for take in takes]
    marked = [*segments[:2], segments[2].model_copy(update={"replaces": True})]

    assert [part.scene_index for part in build_timeline(marked, separate=False)] == [0, 1, 2]


def test_a_fresh_scene_inside_a_cumulative_clip_fades_in() -> None:
    """Scene 1 is fresh and scene 2 holds its clip: scene 0 stays and fades into clip 2."""
    kinds: list[Kind] = ["fresh", "fresh", "continued"]
    takes = a_run_of_takes([2, 2, 2], kinds=kinds)
    takes = cumulative(takes, 2, since=1)
    takes[1] = replace(takes[1], clip=np.zeros_like(takes[1].clip))

    track, assembly = assemble_parts(takes)

    np.testing.assert_allclose(track[:, :90_000], piece_of(track)[:, :90_000], atol=3e-3)
    after = track[:, 96_000 + FADE : -EDGE_SAMPLES]
    own = music(np.arange(FADE, FADE + after.shape[1]), piece=1)
    np.testing.assert_allclose(after, own, atol=3e-3)
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(1, "fade")]


def test_a_cumulative_clip_without_its_head_enters_as_early_as_possible() -> None:
    """0.3 s are missing: the first clip plays for that and for 1 s of common music."""
    takes = a_run_of_takes([3, 3, 3], gains_db=[0, 2, -2])
    takes = cumulative(takes, 2, since=0, lost=14_400)

    track, assembly = assemble_parts(with_other_music(takes, [1]))

    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    (seam,) = assembly.seams
    assert (seam.at_samples, seam.kind) == (14_400 + SAMPLE_RATE_HZ, "splice")
    assert seam.gain_db == pytest.approx(2, abs=0.01)


def test_with_fades_every_scene_plays_its_part_of_the_cumulative_clip() -> None:
    """The track is silent at each scene's start and plays the piece after the fade."""
    takes = a_run_of_takes([2.5, 2.5, 2.5], gains_db=[1, 2, 0])
    takes = with_other_music(cumulative(takes, 2, since=0), [0, 1])

    track, assembly = assemble_parts(takes, transition=Transition.FADE)

    assert [(s.scene_index, s.kind, s.at_samples) for s in assembly.seams] == [
        (1, "fade", 120_000),
        (2, "fade", 240_000),
    ]
    piece = piece_of(track)
    for start in (0, 120_000, 240_000):
        here = slice(start + FADE, start + 120_000 - FADE)
        np.testing.assert_allclose(track[:, here], piece[:, here], atol=3e-3)
    assert rms(track[:, 120_000 - 20 : 120_000 + 20]) < 1e-3


def test_without_a_cumulative_clip_the_timeline_is_the_segments() -> None:
    """With and without fades."""
    segments = [take.segment for take in a_run_of_takes([1, 2, 3])]

    assert (
        build_timeline(segments, separate=False)
        == build_timeline(segments, separate=True)
        == segments
    )


def a_cumulative_run(
    begin: int, *, window: int = WINDOW_SAMPLES_MIN, padding: int = 0
) -> list[SegmentGenerated]:
    """Return three scenes of two seconds; the last clip holds all music from `begin` on.

    The music of scene 1 joins half a second after its start, with a window of `window` samples.
    """
    length = 2 * SAMPLE_RATE_HZ
    joins = [0, length + SAMPLE_RATE_HZ // 2, 2 * length]
    windows = [0, window, joins[2] - begin + padding]
    return [
        a_segment(
            index,
            count=3,
            start_samples=index * length,
            samples=length,
            join_samples=joins[index],
            window_samples=windows[index],
            padding_samples=padding if index else 0,
            replaces=index == 2,
        )
        for index in range(3)
    ]


JOIN = 2 * SAMPLE_RATE_HZ + SAMPLE_RATE_HZ // 2  # of scene 1 in `a_cumulative_run`
START = 2 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("padding", [0, 100])
@pytest.mark.parametrize(("late", "played"), [(0, [0, 1]), (1, [0, 1, 2])])
def test_a_spliced_clip_is_replaced_if_the_cumulative_clip_has_enough_to_splice(
    late: int, played: list[int], padding: int
) -> None:
    """It must hold the shortest window before the join, without its padding."""
    begin = JOIN - WINDOW_SAMPLES_MIN + late
    segments = a_cumulative_run(begin, window=WINDOW_SAMPLES_MIN + padding, padding=padding)

    assert [part.scene_index for part in build_timeline(segments, separate=False)] == played


@pytest.mark.parametrize(("late", "played"), [(0, [0, 1]), (1, [0, 1, 2])])
def test_a_clip_with_too_short_a_window_is_replaced_from_its_start_on(
    late: int, played: list[int]
) -> None:
    """It fades in, so the cumulative clip must hold its scene from the start."""
    segments = a_cumulative_run(
        START + EDGE_SAMPLES + late, window=WINDOW_SAMPLES_MIN + 99, padding=100
    )

    assert [part.scene_index for part in build_timeline(segments, separate=False)] == played


@pytest.mark.parametrize(("late", "replaced"), [(0, True), (1, False)])
def test_with_fades_a_clip_is_replaced_from_its_start_on(late: int, *, replaced: bool) -> None:
    """Its scene then plays the cumulative clip from where that begins."""
    segments = a_cumulative_run(START + EDGE_SAMPLES + late)
    first, middle, last = build_timeline(segments, separate=True)

    assert first == segments[0]
    assert (middle.object_key == last.object_key) is replaced
    if replaced:
        assert middle.join_samples - middle.window_samples == START + EDGE_SAMPLES


def test_a_first_clip_that_continues_a_style_sample_is_replaced() -> None:
    """No music precedes it on the track, although it has a window."""
    segments = a_cumulative_run(0)
    style = segments[0].model_copy(update={"window_samples": 3 * SAMPLE_RATE_HZ})

    (part,) = build_timeline([style, *segments[1:]], separate=False)

    assert (part.scene_index, part.samples) == (0, 6 * SAMPLE_RATE_HZ)


def test_a_cumulative_clip_with_music_from_before_the_track_begins_with_the_track() -> None:
    """It holds the style sample too: nothing precedes the first scene."""
    (part,) = build_timeline(a_cumulative_run(-2 * SAMPLE_RATE_HZ), separate=False)

    assert (part.start_samples, part.join_samples) == (0, 0)
    assert part.window_samples == 2 * SAMPLE_RATE_HZ
