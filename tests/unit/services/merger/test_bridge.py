"""Tests of the bridge: a kept scene after one that was generated again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.merger.assembly import Assembly, JoinRules
from services.merger.bridge import place_bridged
from services.merger.crossfade import click_ratio
from services.merger.placed_clip import EDGE_SAMPLES, GainCurve, PlacedClip
from services.merger.timeline import build_timeline, check_run
from shared.contract.events import Seam
from shared.contract.params import Kept, Transition
from shared.media.samples import Audio
from tests.support.audio_builders import Take, a_run_of_takes, music
from tests.support.event_builders import a_segment
from tests.unit.services.merger.test_assembly import levels_db
from tests.unit.services.merger.test_timeline import cumulative

BLEND = 4800
RATE = 48_000


def redriven(takes: Sequence[Take], index: int, *, gain_db: float = 0.0) -> list[Take]:
    """Return the run where scene `index` was generated again and all others are kept."""
    changed = [_kept(take, bridged=i == index + 1) for i, take in enumerate(takes)]
    take = takes[index]
    assert take.clip is not None
    window = take.segment.window_samples
    other = music(np.arange(take.clip.shape[1]), piece=take.piece + 1)
    clip = np.concatenate([take.clip[:, :window], other[:, window:]], axis=1)
    changed[index] = replace(take, clip=clip * np.float32(10 ** (gain_db / 20)))
    return changed


def _kept(take: Take, *, bridged: bool) -> Take:
    kept = Kept(run=1, bridged=bridged)
    return replace(take, segment=take.segment.model_copy(update={"kept": kept}))


def assemble_parts(takes: Sequence[Take], **rules: Any) -> tuple[Audio, Assembly]:
    """Return the track as the merger makes it."""
    options = {"transition": Transition.AUTO, "fade_samples": RATE, **rules}
    segments = [take.segment for take in takes]
    check_run(segments)
    parts = build_timeline(segments, separate=options["transition"] is Transition.FADE)
    clips = {take.segment.object_key: take.clip for take in takes}
    assembly = Assembly(parts, JoinRules(crossfade_samples=BLEND, **options))
    blocks = [b for i, part in enumerate(parts) for b in assembly.add(i, clips[part.object_key])]
    return np.concatenate([*blocks, *assembly.finish()], axis=1), assembly


def test_a_bridge_has_no_click_and_no_gap() -> None:
    """Both clips sound for 1 s. Measured: click 4.0, dip 6.2 dB; a fade dips by 72 dB."""
    takes = redriven(a_run_of_takes([3.4, 2.7, 4.0, 2.0], gains_db=[0, 3, -2, 1]), 1)

    track, assembly = assemble_parts(takes)

    seam = assembly.seams[1]
    assert (seam.kind, seam.scene_index, seam.bridge_samples) == ("fade", 2, RATE)
    for place in (seam.at_samples - RATE, seam.at_samples):
        click = click_ratio(track[:, place - 2400 : place + 2400])
        assert click is not None
        assert click <= 6
    around = levels_db(track[:, seam.at_samples - 2 * RATE : seam.at_samples + RATE])
    assert around.min() > np.median(around) - 8, "the level of the music itself varies by 5 dB"
    assert track.shape[1] == sum(take.segment.samples for take in takes)
    assert [seam.kind for seam in assembly.seams] == ["splice", "fade", "splice"]
    assert assembly.warnings == [
        (
            "scene 3 is kept, but the music before it was generated again: "
            "bridged over 1.00 s instead of continued"
        )
    ]


@pytest.mark.parametrize("gain_db", [-5.0, 4.0])
def test_a_kept_clip_follows_the_level_of_the_new_music(gain_db: float) -> None:
    """The remaining level step is below 1 dB."""
    _, assembly = assemble_parts(redriven(a_run_of_takes([3.0, 3.0, 3.0]), 1, gain_db=gain_db))

    seam = assembly.seams[1]
    assert seam.level_step_db == pytest.approx(0, abs=1)


def test_a_run_with_fades_has_no_bridge() -> None:
    """The warning is added all the same."""
    _, assembly = assemble_parts(redriven(a_run_of_takes([3, 3, 3]), 1), transition=Transition.FADE)

    assert [seam.bridge_samples for seam in assembly.seams] == [0, 0]
    assert assembly.warnings[-1].endswith("generated again: faded instead of continued")


def test_the_old_music_of_a_kept_cumulative_clip_is_not_played() -> None:
    """The clip enters at its own scene; the scene before it keeps its new music."""
    takes = cumulative(a_run_of_takes([3, 3, 3]), 2, since=0)
    changed = redriven(takes, 1)

    track, assembly = assemble_parts(changed)

    middle = slice(int(3.5 * RATE), int(4.9 * RATE))
    new = changed[1].clip
    assert new is not None
    clip_start = changed[1].segment.join_samples - changed[1].segment.window_samples
    expected = new[:, middle.start - clip_start : middle.stop - clip_start]
    correlation = np.corrcoef(track[0, middle], expected[0])[0, 1]
    assert correlation > 0.99
    assert assembly.seams[-1].bridge_samples == RATE


@settings(max_examples=40, deadline=None)
@given(
    durations=st.lists(st.sampled_from([0.05, 0.3, 1.0, 1.7, 2.9]), min_size=2, max_size=6),
    data=st.data(),
)
def test_the_track_is_as_long_as_its_scenes_whichever_is_generated_again(
    durations: list[float], data: st.DataObject
) -> None:
    """To the sample, with long fades and short clips."""
    index = data.draw(st.integers(0, len(durations) - 1))
    fade = data.draw(st.sampled_from([0, 4800, RATE, 10 * RATE]))
    share = data.draw(st.sampled_from([1.0, 0.7, 0.2]))
    takes = redriven(a_run_of_takes(durations), index)
    clip = takes[index].clip
    assert clip is not None
    takes[index] = replace(takes[index], clip=clip[:, : max(1, int(clip.shape[1] * share))])

    track, assembly = assemble_parts(takes, fade_samples=fade)

    assert track.shape == (2, sum(take.segment.samples for take in takes))
    assert np.isfinite(track).all()
    places = [seam.at_samples for seam in assembly.seams]
    assert places == sorted(places)


def placed_bridge(
    *,
    join: int = 3 * RATE,
    window: int = RATE,
    padding: int = 0,
    scene_at: int = 3 * RATE,
    current_from: int = RATE // 2,
    current_samples: int = 4 * RATE,
) -> tuple[PlacedClip, Seam, int] | None:
    """Bridge from a clip that sounds from `current_from` on to the same piece of music."""
    places = np.arange(current_samples)
    current = PlacedClip(
        segment=a_segment(0),
        clip=music(places),
        start=current_from,
        begin=current_from,
        gain=GainCurve(start_db=0.0, start_samples=0),
        fade_in=0,
        spliced=False,
    )
    segment = a_segment(
        1,
        start_samples=scene_at,
        join_samples=join,
        window_samples=window,
        padding_samples=padding,
        kept=Kept(run=1, bridged=True),
    )
    clip = music(join - window - current_from + np.arange(3 * RATE))
    return place_bridged(current, segment, clip, blend_samples_max=10 * RATE)


@pytest.mark.parametrize(
    ("window", "padding", "blend"),
    [
        (RATE, 0, RATE),  # the whole window
        (RATE, 100, RATE - 100),  # without its padding
        (2 * RATE, 0, int(1.25 * RATE)),  # half of the 2.5 s that the clip before sounds
        (RATE, RATE - EDGE_SAMPLES, EDGE_SAMPLES),
    ],
)
def test_a_bridge_is_as_long_as_both_clips_allow(window: int, padding: int, blend: int) -> None:
    """It ends at the join, and both clips hold the same music there."""
    bridge = placed_bridge(window=window, padding=padding)

    assert bridge is not None
    placed, seam, blend_samples = bridge
    assert blend_samples == seam.bridge_samples == blend
    assert placed.begin == seam.at_samples == 3 * RATE
    assert seam.correlation == pytest.approx(1, abs=1e-3)


def test_a_bridge_shorter_than_a_fade_that_does_not_click_is_not_placed() -> None:
    """The clip fades in instead."""
    assert placed_bridge(padding=RATE - EDGE_SAMPLES + 1) is None


@pytest.mark.parametrize(("early", "is_placed"), [(RATE, True), (RATE + 1, False)])
def test_a_bridge_ends_at_most_a_second_before_its_scene(early: int, *, is_placed: bool) -> None:
    """The clip before ends at 3 s."""
    bridge = placed_bridge(
        join=3 * RATE + early,
        window=2 * RATE,
        scene_at=3 * RATE + early,
        current_samples=5 * RATE // 2,
    )

    assert (bridge is not None) is is_placed
    assert bridge is None or bridge[0].begin == 3 * RATE


def test_a_bridge_between_clips_that_start_before_the_track_is_measured_in_full() -> None:
    """Their windows reach beyond the start."""
    bridge = placed_bridge(join=RATE, window=int(1.5 * RATE), current_from=-RATE, scene_at=RATE)

    assert bridge is not None
    assert bridge[2] == RATE
    assert bridge[1].correlation == pytest.approx(1, abs=1e-3)
