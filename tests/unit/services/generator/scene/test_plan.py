"""Checks the state between scenes and the plan of the next scene."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.scene.plan import (
    Continuation,
    LastClip,
    ScenePlan,
    StyleSample,
    plan_scene,
)
from shared.contract.events import JobFailed, Origin, SegmentGenerated, Stage
from shared.errors import JobError
from shared.media.samples import SAMPLE_RATE_HZ, exact_seconds, samples_at
from tests.support.event_builders import a_scene, a_segment

durations = st.lists(
    st.decimals(min_value="0.05", max_value="40", places=6).map(float), min_size=1, max_size=25
)


def _made(plan: ScenePlan, index: int, duration_s: float) -> SegmentGenerated:
    """Return the segment of a clip that follows `plan` exactly."""
    return a_segment(
        index,
        count=99,
        origin=Origin.CONTINUED if plan.window else Origin.FRESH,
        duration_s=duration_s,
        start_samples=plan.start_samples,
        samples=plan.samples,
        clip_samples=plan.duration_s * SAMPLE_RATE_HZ,
        window_samples=plan.window_samples,
        join_samples=plan.join_samples,
    )


@given(durations, st.integers(min_value=1, max_value=5))
def test_scenes_fill_the_track_without_gap_or_overlap(lengths: list[float], window_s: int) -> None:
    """The samples add up to the exact sum of the seconds."""
    state = Continuation(run=1)
    at = 0
    for index, length in enumerate(lengths):
        plan = plan_scene(state, a_scene(index, count=99, duration_s=length), window_s=window_s)
        assert plan.start_samples == at
        at += plan.samples
        state = state.after(_made(plan, index, length))
    assert at == samples_at(sum(map(exact_seconds, lengths)))


@given(durations, st.integers(min_value=1, max_value=5))
def test_every_request_is_valid_for_the_model(lengths: list[float], window_s: int) -> None:
    """Whole seconds, scene plus window; the window lies inside the clip and is never empty."""
    state = Continuation(run=1)
    for index, length in enumerate(lengths):
        plan = plan_scene(state, a_scene(index, count=99, duration_s=length), window_s=window_s)
        window = plan.window
        assert plan.duration_s == math.ceil(exact_seconds(length)) + (
            window.length_s if window else 0
        )
        if index:
            assert window is not None
            assert state.last_clip is not None
            assert 0 <= window.start_s < window.end_s
            assert window.end_s * SAMPLE_RATE_HZ <= state.last_clip.clip_samples
            assert window.length_s == min(window_s, window.end_s)
        state = state.after(_made(plan, index, length))


@given(durations, st.integers(min_value=1, max_value=5))
def test_the_music_always_reaches_to_the_next_join(lengths: list[float], window_s: int) -> None:
    """The earlier clip lasts until the join, the new one until its scene's end."""
    state = Continuation(run=1)
    for index, length in enumerate(lengths):
        plan = plan_scene(state, a_scene(index, count=99, duration_s=length), window_s=window_s)
        end = plan.start_samples + plan.samples
        clip_end = plan.join_samples + plan.duration_s * SAMPLE_RATE_HZ - plan.window_samples
        assert clip_end >= end
        assert plan.start_samples <= plan.join_samples < plan.start_samples + SAMPLE_RATE_HZ
        if state.last_clip is not None:
            last = state.last_clip
            assert plan.join_samples <= last.origin_samples + last.clip_samples
        state = state.after(_made(plan, index, length))


def test_the_window_is_the_final_second_before_the_cut() -> None:
    """A 4.3 s scene has a 5 s clip; the next scene continues its fifth second."""
    state = Continuation(run=1)
    first = plan_scene(state, a_scene(0, duration_s=4.3), window_s=1)
    state = state.after(_made(first, 0, 4.3))

    second = plan_scene(state, a_scene(1, duration_s=1.7), window_s=1)

    assert second.window is not None
    assert (second.window.start_s, second.window.end_s) == (4, 5)
    assert second.duration_s == 2 + 1
    assert second.join_samples == 5 * SAMPLE_RATE_HZ


def test_after_silence_the_last_music_is_continued_at_the_cut() -> None:
    """The window is from before the silence; the new music starts with the new scene."""
    state = Continuation(run=1).after(a_segment(0))
    silent = a_segment(
        1, origin=Origin.SILENCE, object_key=None, clip_samples=0, duration_s=6.0, samples=288_000
    )
    state = state.after(silent)

    plan = plan_scene(state, a_scene(2), window_s=1)

    assert plan.window is not None
    assert plan.window.clip_key == a_segment(0).object_key
    assert (plan.window.start_s, plan.window.end_s) == (2, 3)
    assert plan.join_samples == plan.start_samples


@pytest.mark.parametrize("padding", [0, 1658])
def test_padding_moves_the_window_and_does_not_accumulate(padding: int) -> None:
    """Scenes of whole seconds: the last whole second of a padded file ends before the cut."""
    state = Continuation(run=1)
    joins = []
    for index in range(40):
        plan = plan_scene(state, a_scene(index, count=99, duration_s=2.0), window_s=1)
        old = plan.window_samples + padding
        clip = plan.duration_s * SAMPLE_RATE_HZ + padding
        joins.append(plan.join_samples - plan.start_samples)
        assert plan.join_samples + clip - old >= plan.start_samples + plan.samples
        if state.last_clip is not None:
            assert plan.window is not None
            end = state.last_clip.origin_samples + plan.window.end_s * SAMPLE_RATE_HZ
            assert plan.join_samples == end
        segment = _made(plan, index, 2.0)
        fields = {"window_samples": old, "clip_samples": clip, "padding_samples": padding}
        state = state.after(segment.model_copy(update=fields))
    assert min(joins) >= -padding
    assert max(joins) < SAMPLE_RATE_HZ


def test_the_next_scene_continues_a_cumulative_track_at_its_end() -> None:
    """The cut is counted from the clip's own beginning, here that of the track."""
    track = a_segment(
        1,
        origin=Origin.CONTINUED,
        clip_samples=9 * SAMPLE_RATE_HZ,
        window_samples=3 * SAMPLE_RATE_HZ,
        join_samples=3 * SAMPLE_RATE_HZ,
        replaces=True,
    )
    state = Continuation(run=1).after(a_segment(0)).after(track)

    plan = plan_scene(state, a_scene(2), window_s=1)

    assert plan.window is not None
    assert (plan.window.start_s, plan.window.end_s) == (4, 5)
    assert plan.join_samples == plan.start_samples == 5 * SAMPLE_RATE_HZ


def test_after_a_short_silence_the_music_begins_at_the_cut() -> None:
    """A clip that ended before a silent scene of 0.2 s does not count as slightly short."""
    silent = a_segment(
        1,
        origin=Origin.SILENCE,
        object_key=None,
        clip_samples=0,
        duration_s=0.2,
        start_samples=144_000,
        samples=9600,
    )
    first = a_segment(0, duration_s=3.0, samples=144_000)
    state = Continuation(run=1).after(first).after(silent)

    plan = plan_scene(state, a_scene(2), window_s=1)

    assert plan.join_samples == plan.start_samples == 153_600


def test_without_earlier_music_a_scene_has_no_window() -> None:
    """The first scene, and a scene after silence only."""
    plan = plan_scene(Continuation(run=1), a_scene(0), window_s=1)

    assert plan.window is None
    assert plan.duration_s == 3
    assert plan.join_samples == plan.start_samples == 0


def test_a_scene_shorter_than_a_sample_is_rejected() -> None:
    """An empty segment would break the track's arithmetic."""
    with pytest.raises(JobError, match="less than one sample"):
        plan_scene(Continuation(run=1), a_scene(0, duration_s=1e-6), window_s=1)


def test_the_state_round_trips_through_json() -> None:
    """The changelog stores it as JSON."""
    state = Continuation(run=3).after(a_segment(0)).after(a_segment(1))

    assert Continuation.model_validate(state.model_dump(mode="json")) == state


STYLE = StyleSample(clip_key="styles/x", clip_sha256="0" * 64, length_s=5)


def test_the_first_music_of_a_run_continues_the_whole_style_sample() -> None:
    """The sample is before the track: the music joins at the start of the scene."""
    plan = plan_scene(Continuation(run=1), a_scene(0), window_s=1, style=STYLE)

    assert plan.window == STYLE.window
    assert (STYLE.window.start_s, STYLE.window.end_s) == (0, 5)
    assert plan.continues_style
    assert plan.join_samples == 0
    assert plan.duration_s == 3 + 5
    assert not plan_scene(Continuation(run=1), a_scene(0), window_s=1).continues_style


def test_later_music_continues_the_music_before_it_not_the_style_sample() -> None:
    """The window is on the last clip."""
    state = Continuation(run=1).after(a_segment(0))
    plan = plan_scene(state, a_scene(1), window_s=1, style=STYLE)

    assert plan.window is not None
    assert plan.window.clip_key == a_segment(0).object_key
    assert not plan.continues_style


@pytest.mark.parametrize("fields", [{"origin": Origin.SILENCE}, {"object_key": None}])
def test_a_segment_without_music_is_not_continued(fields: dict[str, Any]) -> None:
    """Silence, or a segment without a clip."""
    assert LastClip.of(a_segment(0, **fields)) is None


def test_a_scene_of_one_sample_is_planned() -> None:
    """It is the shortest."""
    plan = plan_scene(Continuation(run=1), a_scene(0, duration_s=0.000021), window_s=1)

    assert plan.samples == 1


def test_a_clip_shorter_than_a_second_is_not_continued() -> None:
    """A window has whole seconds: the next music begins at the cut."""
    state = Continuation(run=1).after(a_segment(0, clip_samples=SAMPLE_RATE_HZ - 1))

    plan = plan_scene(state, a_scene(1), window_s=1)

    assert plan.window is None
    assert plan.join_samples == plan.start_samples == int(2.5 * SAMPLE_RATE_HZ)


@pytest.mark.parametrize(("clip_s", "join_s"), [(3, 3), (2, 2), (1, 3)])
def test_a_clip_that_is_at_most_a_second_short_is_continued_at_its_end(
    clip_s: int, join_s: int
) -> None:
    """A clip that is shorter than that leaves a gap, and the new music begins at the cut."""
    first = a_segment(
        0, duration_s=3.0, samples=3 * SAMPLE_RATE_HZ, clip_samples=clip_s * SAMPLE_RATE_HZ
    )

    plan = plan_scene(Continuation(run=1).after(first), a_scene(1), window_s=1)

    assert plan.join_samples == join_s * SAMPLE_RATE_HZ


def test_the_state_adds_up_what_a_run_has_spent() -> None:
    """By its segments and by its failure."""
    state = Continuation(run=1)
    for index in range(2):
        state = state.after(a_segment(index, cost_usd=0.25))
    state = state.after(a_segment(2, cost_usd=None))
    failure = JobFailed(
        job_id="job-1", run=1, stage=Stage.GENERATION, code="x", message="no", cost_usd=0.5
    )

    ended = state.ended(failure)

    assert state.spent_usd == 0.5
    assert ended.spent_usd == 1.0
    assert ended.failure == failure
