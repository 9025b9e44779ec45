"""Tests of segments: a cumulative track takes the place of the clips that it holds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.assembly import Assembly, JoinRules
from services.merger.placed_clip import EDGE_SAMPLES
from services.merger.timeline import build_timeline, check_run
from shared.contract.params import Transition
from shared.media.samples import SAMPLE_RATE_HZ, Audio, rms
from tests.support.audio_builders import Kind, Take, a_run_of_takes, music

FADE = 4800


def cumulative(takes: Sequence[Take], index: int, *, since: int, lost: int = 0) -> list[Take]:
    """The run where the clip of `index` holds all that there was since clip `since` began.

    `lost`: samples that it lacks at its head.
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


def laid(
    takes: Sequence[Take], *, transition: Transition = Transition.AUTO
) -> tuple[Audio, Assembly]:
    """The track of a run, as the merger makes it: a clip that is not needed is never asked for."""
    segments = [take.segment for take in takes]
    check_run(segments)
    parts = build_timeline(segments, separate=transition is Transition.FADE)
    clips = {take.segment.object_key: take.clip for take in takes}
    rules = JoinRules(transition=transition, fade_samples=FADE, crossfade_samples=FADE)
    assembly = Assembly(parts, rules)
    blocks = [b for i, part in enumerate(parts) for b in assembly.add(i, clips[part.object_key])]
    return np.concatenate([*blocks, *assembly.finish()], axis=1), assembly


def spoiled(takes: Sequence[Take], indices: Sequence[int]) -> list[Take]:
    """The run with other music in the clips of these scenes: it would be heard."""
    changed = list(takes)
    for index in indices:
        take = takes[index]
        if take.clip is not None:
            other = music(np.arange(take.clip.shape[1]), piece=take.piece + 1)
            changed[index] = replace(take, clip=other)
    return changed


def piece_of(track: Audio, gain_db: float = 0.0) -> Audio:
    """What should be heard from beginning to end."""
    return music(np.arange(track.shape[1])) * np.float32(10 ** (gain_db / 20))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), lengths=st.lists(st.sampled_from([1.2, 2, 2.9]), min_size=2, max_size=6))
def test_what_a_cumulative_track_replaces_is_not_heard(
    data: st.DataObject, lengths: list[float]
) -> None:
    """Since any scene, until any other, anywhere in the run: it is the piece at one level."""
    index = data.draw(st.integers(1, len(lengths) - 1))
    since = data.draw(st.integers(0, index - 1))
    gains = data.draw(st.lists(st.floats(-2.9, 2.9), min_size=6, max_size=6))
    takes = a_run_of_takes(lengths, gains_db=gains[: len(lengths)])
    takes = spoiled(cumulative(takes, index, since=since), range(since, index))

    track, assembly = laid(takes)

    assert track.shape == (2, sum(take.segment.samples for take in takes))
    loud = gains[index] if since == 0 else gains[0]
    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track, loud)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    joined = [k for k in range(1, len(lengths)) if k <= since or k > index]
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(k, "splice") for k in joined]
    assert assembly.warnings == []


def test_the_last_of_several_cumulative_tracks_counts() -> None:
    """Each replaces the one before; what follows is spliced to the last."""
    takes = a_run_of_takes([2, 2, 2, 2], gains_db=[0, 2, -2, 1])
    for index in (1, 2):
        takes = cumulative(takes, index, since=0)

    track, assembly = laid(spoiled(takes, [0, 1]))

    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track, -2)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    assert [seam.scene_index for seam in assembly.seams] == [3]
    assert assembly.seams[0].gain_db == pytest.approx(-3, abs=0.01)


@pytest.mark.parametrize("since", [0, 2])
def test_a_silent_scene_stays_silent_and_what_lies_before_it_stays_as_it_was(since: int) -> None:
    """Whether the clip holds the whole track or the clip before it: the silence keeps its place."""
    kinds: list[Kind] = ["fresh", "silence", "continued", "continued"]
    takes = a_run_of_takes([2, 1.5, 2, 2], kinds=kinds)
    takes = cumulative(takes, 3, since=since)

    track, assembly = laid(spoiled(takes, [2]))

    assert not track[:, 96_000:168_000].any()
    np.testing.assert_allclose(track[:, :90_000], piece_of(track)[:, :90_000], atol=3e-3)
    after = track[:, 168_000 + FADE : -EDGE_SAMPLES]
    wanted = music(96_000 + FADE + np.arange(after.shape[1]))
    np.testing.assert_allclose(after, wanted, atol=3e-3)
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(1, "fade"), (2, "fade")]


def test_a_track_right_after_silence_replaces_nothing() -> None:
    """It enters as any clip would."""
    kinds: list[Kind] = ["fresh", "silence", "continued"]
    takes = a_run_of_takes([2, 1.5, 2], kinds=kinds)
    segments = [take.segment for take in takes]
    marked = [*segments[:2], segments[2].model_copy(update={"replaces": True})]

    assert [part.scene_index for part in build_timeline(marked, separate=False)] == [0, 1, 2]


def test_a_fresh_scene_between_is_faded_to_where_the_track_holds_it() -> None:
    """Scene 1 began anew, and scene 2 holds its clip: scene 0 stays, and fades into clip 2."""
    kinds: list[Kind] = ["fresh", "fresh", "continued"]
    takes = a_run_of_takes([2, 2, 2], kinds=kinds)
    takes = cumulative(takes, 2, since=1)
    takes[1] = replace(takes[1], clip=np.zeros_like(takes[1].clip))

    track, assembly = laid(takes)

    np.testing.assert_allclose(track[:, :90_000], piece_of(track)[:, :90_000], atol=3e-3)
    after = track[:, 96_000 + FADE : -EDGE_SAMPLES]
    own = music(np.arange(FADE, FADE + after.shape[1]), piece=1)
    np.testing.assert_allclose(after, own, atol=3e-3)
    assert [(s.scene_index, s.kind) for s in assembly.seams] == [(1, "fade")]


def test_a_track_that_lost_its_head_takes_over_as_soon_as_it_can() -> None:
    """0.3 s are missing: the first clip is heard for that and for a second of common music."""
    takes = a_run_of_takes([3, 3, 3], gains_db=[0, 2, -2])
    takes = cumulative(takes, 2, since=0, lost=14_400)

    track, assembly = laid(spoiled(takes, [1]))

    np.testing.assert_allclose(
        track[:, :-EDGE_SAMPLES], piece_of(track)[:, :-EDGE_SAMPLES], atol=3e-3
    )
    (seam,) = assembly.seams
    assert (seam.at_samples, seam.kind) == (14_400 + SAMPLE_RATE_HZ, "splice")
    assert seam.gain_db == pytest.approx(2, abs=0.01)


def test_asked_for_fades_stay_and_every_scene_plays_the_one_clip() -> None:
    """At each scene's start nothing, beyond the fade the piece."""
    takes = a_run_of_takes([2.5, 2.5, 2.5], gains_db=[1, 2, 0])
    takes = spoiled(cumulative(takes, 2, since=0), [0, 1])

    track, assembly = laid(takes, transition=Transition.FADE)

    assert [(s.scene_index, s.kind, s.at_samples) for s in assembly.seams] == [
        (1, "fade", 120_000),
        (2, "fade", 240_000),
    ]
    piece = piece_of(track)
    for start in (0, 120_000, 240_000):
        here = slice(start + FADE, start + 120_000 - FADE)
        np.testing.assert_allclose(track[:, here], piece[:, here], atol=3e-3)
    assert rms(track[:, 120_000 - 20 : 120_000 + 20]) < 1e-3


def test_without_a_cumulative_track_every_segment_is_laid_as_it_came() -> None:
    """The same objects."""
    segments = [take.segment for take in a_run_of_takes([1, 2, 3])]

    assert (
        build_timeline(segments, separate=False)
        == build_timeline(segments, separate=True)
        == segments
    )
