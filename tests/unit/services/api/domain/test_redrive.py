"""The plan of a redrive: what it generates, what it keeps, and what is rejected."""

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


def failed_at(at: int, *, of: PreviousRun = DONE) -> PreviousRun:
    """Return the run that failed at scene `at`."""
    parts = (replace(part, is_done=index < at) for index, part in enumerate(of.scenes))
    return replace(
        of, scenes=tuple(parts), status=RunStatus.FAILED, failed_scene=at, has_track=False
    )


def test_a_redrive_of_one_scene_keeps_the_others_and_bridges_to_the_next() -> None:
    """Only the scene that continued the replaced music is bridged."""
    spec = build_redrive_spec(DONE, RedriveRequest(scene=1))

    assert spec.to_generate == (1,)
    assert spec.skip_cache == {1}
    assert spec.kept == {0: Kept(run=1), 2: Kept(run=1, bridged=True), 3: Kept(run=1)}
    assert (spec.scenes[2].description, spec.video, spec.params) == ("2", FILM, DONE.params)


def test_a_redrive_from_a_scene_generates_all_later_scenes() -> None:
    """No bridge: each later scene continues a generated one."""
    spec = build_redrive_spec(DONE, RedriveRequest(first=2))

    assert spec.to_generate == (2, 3)
    assert spec.kept == {0: Kept(run=1), 1: Kept(run=1)}


@pytest.mark.parametrize("stage", LateStage)
def test_a_redrive_of_a_late_stage_generates_no_scene(stage: LateStage) -> None:
    """The mux stage keeps the track as well."""
    spec = build_redrive_spec(DONE, RedriveRequest(stage=stage))

    assert spec.to_generate == ()
    assert {kept.track for kept in spec.kept.values()} == {stage is LateStage.MUX}
    assert {kept.bridged for kept in spec.kept.values()} == {False}


def test_a_redrive_resumes_a_failed_run_at_the_failed_scene() -> None:
    """Scenes that were never generated may come from the cache."""
    spec = build_redrive_spec(failed_at(2), RedriveRequest())

    assert spec.to_generate == (2, 3)
    assert spec.skip_cache == frozenset()


@pytest.mark.parametrize("has_track", [False, True])
def test_a_redrive_resumes_a_run_that_failed_after_its_scenes(*, has_track: bool) -> None:
    """It resumes at the merge without a track, at the mux with one."""
    failed = replace(DONE, status=RunStatus.FAILED, has_track=has_track)

    spec = build_redrive_spec(failed, RedriveRequest())

    assert spec.to_generate == ()
    assert spec.kept[3] == Kept(run=1, track=has_track)


def test_a_redrive_resumes_a_failed_redrive_with_its_kept_scenes() -> None:
    """Scenes that the failed redrive did not reach are kept from the run it named."""
    spec = build_redrive_spec(DONE, RedriveRequest(scene=1))
    parts = tuple(
        PreviousScene(
            scene=scene,
            is_done=index < 1,
            kept=spec.kept.get(index),
            skip_cache=index in spec.skip_cache,
        )
        for index, scene in enumerate(spec.scenes)
    )
    failed = replace(DONE, run=2, scenes=parts, status=RunStatus.FAILED, failed_scene=1)

    again = build_redrive_spec(failed, RedriveRequest())

    assert again.to_generate == (1,)
    assert again.skip_cache == {1}
    assert again.kept == {0: Kept(run=2), 2: Kept(run=1, bridged=True), 3: Kept(run=1)}


def test_kept_scenes_cost_nothing() -> None:
    """The estimate counts the generated scenes with their windows."""
    pricing = PricingSettings(wanted="replicate", window_s=1)

    costs = [
        estimate_of(build_redrive_spec(DONE, request), pricing).music_s
        for request in (
            RedriveRequest(first=0),
            RedriveRequest(scene=0),
            RedriveRequest(scene=1),
            RedriveRequest(stage=LateStage.MERGE),
        )
    ]

    assert costs == [2 + 3 * 3, 2, 3, 0]


def test_the_requests_state_what_is_kept_and_what_is_generated() -> None:
    """The plan is in the requests alone, so a replay repeats it; the digest ignores it."""
    spec = build_redrive_spec(DONE, RedriveRequest(scene=1))

    requests = spec.requests(2)

    assert [request.kept and request.kept.run for request in requests] == [1, None, 1, 1]
    assert [request.anew for request in requests] == [False, True, False, False]
    assert spec.digest() == replace(spec, kept={}, skip_cache=frozenset()).digest()


@pytest.mark.parametrize(
    ("previous", "request_", "message"),
    [
        (replace(DONE, run=0), RedriveRequest(scene=1), "no run yet"),
        (DONE, RedriveRequest(), "run 1 is completed: choose what"),
        (DONE, RedriveRequest(scene=4), "--scene 5: run 1 has scenes 1 to 4"),
        (DONE, RedriveRequest(first=9), "--from 10: run 1 has scenes 1 to 4"),
        (
            failed_at(2),
            RedriveRequest(scene=1),
            "scene 3 cannot be kept: run 1 did not generate it; to generate it as well: --from 2",
        ),
        (
            failed_at(2),
            RedriveRequest(scene=3),
            "scene 3 cannot be kept: run 1 did not generate it; to generate it as well: --from 3",
        ),
        (failed_at(2), RedriveRequest(first=3), "to generate it as well: --from 3"),
        (failed_at(2), RedriveRequest(stage=LateStage.MERGE), "to generate it as well: --from 3"),
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
def test_an_impossible_redrive_is_rejected_with_the_alternative(
    previous: PreviousRun, request_: RedriveRequest, message: str
) -> None:
    """The error states the reason and what to do instead."""
    with pytest.raises(RedriveError) as rejected:
        build_redrive_spec(previous, request_)

    assert message in str(rejected.value)


@pytest.mark.parametrize(
    ("previous", "generated"),
    [(failed_at(2), (2, 3)), (replace(DONE, has_track=False), ()), (DONE, ())],
    ids=["scenes missing", "track missing", "video missing"],
)
def test_a_cancelled_run_is_resumed_as_a_failed_one(
    previous: PreviousRun, generated: tuple[int, ...]
) -> None:
    """An operator resumes it deliberately, after its price: what it generated is kept."""
    cancelled = replace(previous, status=RunStatus.CANCELLED, failed_scene=None)

    spec = build_redrive_spec(cancelled, RedriveRequest())

    assert spec.to_generate == generated
    assert {index: kept.run for index, kept in spec.kept.items()} == {
        index: 1 for index in range(4) if index not in generated
    }
    assert all(kept.track == previous.has_track for kept in spec.kept.values())


@given(index=st.integers(0, 3), alone=st.booleans())
def test_a_redrive_generates_or_keeps_every_scene(*, index: int, alone: bool) -> None:
    """A kept scene is bridged if and only if the preceding scene is generated."""
    spec = build_redrive_spec(
        DONE, RedriveRequest(scene=index) if alone else RedriveRequest(first=index)
    )

    assert sorted([*spec.to_generate, *spec.kept]) == [0, 1, 2, 3]
    for position, kept in spec.kept.items():
        assert kept.bridged == (position - 1 in spec.to_generate)


def test_a_redrive_keeps_the_provider_unless_another_is_chosen() -> None:
    """The estimate is the price of that provider, whatever the stack composes with."""
    synth = PricingSettings(wanted="synth")
    paid = replace(DONE, provider="replicate")
    request = RedriveRequest(scene=1)

    kept = build_redrive_spec(paid, request)
    chosen = build_redrive_spec(paid, request, provider="synth")

    assert [request.provider for request in kept.requests(2)] == ["replicate"] * 4
    assert [request.provider for request in chosen.requests(2)] == ["synth"] * 4
    assert estimate_of(kept, synth).provider == "replicate"
    assert estimate_of(kept, synth).cost_usd > 0
    assert estimate_of(chosen, PricingSettings(wanted="replicate")).cost_usd == 0
    assert kept.digest() == chosen.digest(), "the provider does not make another request"
