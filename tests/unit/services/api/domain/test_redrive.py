"""Redriving: what the next run makes, what it keeps, and what is refused; the pure plan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.domain.cost_estimate import estimate_of
from services.api.domain.redrive import (
    LateStage,
    PreviousRun,
    PreviousScene,
    RedriveError,
    RedriveRequest,
    build_redrive_spec,
)
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.contract.params import AudioParams, Kept, Scene, VideoRef
from shared.pricing import PricingSettings

FILM = VideoRef(object="uploads/film")
DONE = PreviousRun(
    job_id="j",
    run=1,
    status=RunStatus.COMPLETED,
    scenes=tuple(
        PreviousScene(scene=Scene(description=str(index), duration_s=2.0), is_done=True)
        for index in range(4)
    ),
    params=AudioParams(merge_with_video=True),
    video=FILM,
    has_track=True,
)


def stopped(at: int, *, of: PreviousRun = DONE) -> PreviousRun:
    """The run that ended at scene `at`."""
    parts = (replace(part, is_done=index < at) for index, part in enumerate(of.scenes))
    return replace(
        of, scenes=tuple(parts), status=RunStatus.FAILED, failed_scene=at, has_track=False
    )


def test_one_scene_keeps_its_neighbours_and_bridges_to_the_next() -> None:
    """Only what would continue the music that goes is bridged."""
    asked = build_redrive_spec(DONE, RedriveRequest(scene=1))

    assert asked.to_generate == (1,)
    assert asked.anew == {1}
    assert asked.kept == {0: Kept(run=1), 2: Kept(run=1, bridged=True), 3: Kept(run=1)}
    assert (asked.scenes[2].description, asked.video, asked.params) == ("2", FILM, DONE.params)


def test_from_a_scene_on_everything_is_made_anew() -> None:
    """No bridge: what comes behind continues what is made."""
    asked = build_redrive_spec(DONE, RedriveRequest(first=2))

    assert asked.to_generate == (2, 3)
    assert asked.kept == {0: Kept(run=1), 1: Kept(run=1)}


@pytest.mark.parametrize("stage", LateStage)
def test_a_late_stage_makes_no_scene(stage: LateStage) -> None:
    """The video alone keeps the track as well."""
    asked = build_redrive_spec(DONE, RedriveRequest(stage=stage))

    assert asked.to_generate == ()
    assert {kept.track for kept in asked.kept.values()} == {stage is LateStage.MUX}
    assert {kept.bridged for kept in asked.kept.values()} == {False}


def test_a_run_that_failed_goes_on_where_it_failed() -> None:
    """At its scene, and what was never asked of the provider may come from the cache."""
    asked = build_redrive_spec(stopped(2), RedriveRequest())

    assert asked.to_generate == (2, 3)
    assert asked.anew == frozenset()


@pytest.mark.parametrize("has_track", [False, True])
def test_a_run_that_failed_behind_its_scenes_goes_on_there(*, has_track: bool) -> None:
    """Without a track at the merge, with one at the mux."""
    failed = replace(DONE, status=RunStatus.FAILED, has_track=has_track)

    asked = build_redrive_spec(failed, RedriveRequest())

    assert asked.to_generate == ()
    assert asked.kept[3] == Kept(run=1, track=has_track)


def test_a_redrive_that_failed_goes_on_and_keeps_what_it_was_to_keep() -> None:
    """Scene 1 alone is made; what its run never came to is taken from where that run had it."""
    asked = build_redrive_spec(DONE, RedriveRequest(scene=1))
    parts = tuple(
        PreviousScene(
            scene=scene, is_done=index < 1, kept=asked.kept.get(index), anew=index in asked.anew
        )
        for index, scene in enumerate(asked.scenes)
    )
    failed = replace(DONE, run=2, scenes=parts, status=RunStatus.FAILED, failed_scene=1)

    again = build_redrive_spec(failed, RedriveRequest())

    assert again.to_generate == (1,)
    assert again.anew == {1}
    assert again.kept == {0: Kept(run=2), 2: Kept(run=1, bridged=True), 3: Kept(run=1)}


def test_what_is_kept_costs_nothing() -> None:
    """The estimate counts the scenes that are made, with their windows."""
    pricing = PricingSettings(wanted="replicate", window_s=1)

    costs = [
        estimate_of(build_redrive_spec(DONE, wish), pricing).music_s
        for wish in (
            RedriveRequest(first=0),
            RedriveRequest(scene=0),
            RedriveRequest(scene=1),
            RedriveRequest(stage=LateStage.MERGE),
        )
    ]

    assert costs == [2 + 3 * 3, 2, 3, 0]


def test_the_requests_say_what_is_kept_and_what_is_made_anew() -> None:
    """Whatever reads them again does the same: nothing of it is held elsewhere."""
    asked = build_redrive_spec(DONE, RedriveRequest(scene=1))

    requests = asked.requests(2)

    assert [request.kept and request.kept.run for request in requests] == [1, None, 1, 1]
    assert [request.anew for request in requests] == [False, True, False, False]
    assert asked.digest() == replace(asked, kept={}, anew=frozenset()).digest()


@pytest.mark.parametrize(
    ("earlier", "wish", "words"),
    [
        (replace(DONE, run=0), RedriveRequest(scene=1), "no run yet"),
        (DONE, RedriveRequest(), "did not fail (completed): choose what"),
        (replace(DONE, status=RunStatus.CANCELLED), RedriveRequest(), "did not fail (cancelled)"),
        (DONE, RedriveRequest(scene=4), "--scene 4: run 1 has scenes 0 to 3"),
        (DONE, RedriveRequest(first=9), "--from 9: run 1 has scenes 0 to 3"),
        (
            stopped(2),
            RedriveRequest(scene=1),
            "scene 2 cannot be kept: run 1 did not generate it; to generate it as well: --from 1",
        ),
        (
            stopped(2),
            RedriveRequest(scene=3),
            "scene 2 cannot be kept: run 1 did not generate it; to generate it as well: --from 2",
        ),
        (stopped(2), RedriveRequest(first=3), "to generate it as well: --from 2"),
        (stopped(2), RedriveRequest(stage=LateStage.MERGE), "to generate it as well: --from 2"),
        (replace(DONE, has_track=False), RedriveRequest(stage=LateStage.MUX), "has no track yet"),
        (
            replace(DONE, video=None),
            RedriveRequest(stage=LateStage.MUX),
            "without a video",
        ),
        (
            replace(DONE, params=AudioParams()),
            RedriveRequest(stage=LateStage.MUX),
            "without a video",
        ),
        (replace(DONE, is_whole=False), RedriveRequest(scene=1), "not every scene is known"),
        *[
            (replace(DONE, status=status), RedriveRequest(scene=1), "still running")
            for status in sorted(UNFINISHED)
        ],
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(
    earlier: PreviousRun, wish: RedriveRequest, words: str
) -> None:
    """Each in its own words."""
    with pytest.raises(RedriveError) as refused:
        build_redrive_spec(earlier, wish)

    assert words in str(refused.value)


@given(index=st.integers(0, 3), alone=st.booleans())
def test_every_scene_is_made_or_kept_and_a_bridge_is_where_both_meet(
    *, index: int, alone: bool
) -> None:
    """A kept scene is bridged exactly where the one before it is made."""
    asked = build_redrive_spec(
        DONE, RedriveRequest(scene=index) if alone else RedriveRequest(first=index)
    )

    assert sorted([*asked.to_generate, *asked.kept]) == [0, 1, 2, 3]
    for place, kept in asked.kept.items():
        assert kept.bridged == (place - 1 in asked.to_generate)
