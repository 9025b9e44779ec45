"""The fold of events into a run view: order, duplicates, superseded runs, replays."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from services.api.domain.run_view import (
    ALLOWED,
    RANK,
    AnyRunEvent,
    RunStatus,
    RunView,
    project,
    run_event,
)
from shared.contract.events import (
    EVENTS,
    JobFailed,
    RunEvent,
    SceneDelayed,
    Stage,
    VideoStitched,
    WaitCode,
)
from shared.contract.params import AudioParams
from tests.support.event_builders import a_scene, a_segment
from tests.support.run_builders import (
    WITH_VIDEO,
    a_cancel,
    a_complete_run,
    a_delay,
    a_failure,
    a_track,
    a_video,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
STATES = Path(__file__).parents[5] / "docs" / "job-states.md"


def fold(events: list[AnyRunEvent], view: RunView | None = None) -> RunView:
    """Return the view of the newest run after all events."""
    views = {} if view is None else {view.run: view}
    for event in events:
        views[event.run] = project(views.get(event.run), event, at=AT).view
    return views[max(views)]


ANY_EVENT: st.SearchStrategy[AnyRunEvent] = st.integers(1, 3).flatmap(
    lambda run: st.sampled_from(
        [
            *a_complete_run(run),
            a_failure(run),
            a_failure(run, Stage.GENERATION, 1),
            a_cancel(run),
        ]
    )
)


ANY_DELAY: st.SearchStrategy[AnyRunEvent] = st.builds(
    a_delay,
    st.integers(0, 1),
    st.integers(1, 3),
    over=st.booleans(),
    code=st.sampled_from(WaitCode),
)


def test_a_run_passes_through_its_statuses_in_order() -> None:
    """Request, first segment, all segments, track, video."""
    view: RunView | None = None
    statuses = []
    for event in a_complete_run():
        view = project(view, event, at=AT).view
        statuses.append(view.status.value)

    assert statuses == ["submitted", "submitted", "generating", "merging", "muxing", "completed"]


def test_the_track_completes_a_run_without_a_video() -> None:
    """merge_with_video is false."""
    view = fold([a_track(params=AudioParams())])

    assert view.status is RunStatus.COMPLETED
    assert view.percentage == 100


@given(st.lists(ANY_EVENT | ANY_DELAY, min_size=1, max_size=30))
def test_run_status_and_percentage_never_go_back(events: list[AnyRunEvent]) -> None:
    """For any events in any order; every transition is in the diagram."""
    views: dict[int, RunView] = {}
    newest = 0
    for event in events:
        before, was_newest = dict(views), newest
        newest = max(newest, event.run)
        views[event.run] = project(views.get(event.run), event, at=AT).view

        for run, view in before.items():
            old, new = view.status_beside(was_newest), views[run].status_beside(newest)
            assert RANK[new] >= RANK[old]
            assert views[run].percentage >= view.percentage
            assert new == old or new in ALLOWED[old]


@given(st.lists(ANY_EVENT, min_size=1, max_size=20), st.data())
def test_a_duplicate_event_changes_nothing(events: list[AnyRunEvent], data: st.DataObject) -> None:
    """Any applied event, applied again at any later time."""
    again = data.draw(st.sampled_from(events))
    view = fold([event for event in events if event.run == again.run])
    change = project(view, again, at=AT)

    assert change.view == view
    assert change.scene is None or isinstance(change.scene, JobFailed)


@given(st.permutations([*a_complete_run(), a_failure(), a_failure(stage=Stage.MERGE)]))
def test_the_view_does_not_depend_on_the_order_of_events(events: list[AnyRunEvent]) -> None:
    """Topics are read concurrently: every order of the same events gives the same view."""
    assert fold(events) == fold([*a_complete_run(), a_failure(), a_failure(stage=Stage.MERGE)])


@given(
    st.lists(st.builds(a_delay, st.integers(0, 2), over=st.booleans()), max_size=8),
    st.permutations(
        [*a_complete_run()[:3], a_failure(stage=Stage.GENERATION, scene=1), a_cancel()]
    ),
    st.data(),
)
def test_the_view_does_not_depend_on_when_delays_are_read(
    delays: list[SceneDelayed], others: list[AnyRunEvent], data: st.DataObject
) -> None:
    """Delays keep the order of their topic; the order relative to other topics is irrelevant."""
    positions = sorted(data.draw(st.lists(st.integers(0, len(others)), min_size=len(delays))))
    mixed = list(others)
    for position, delay in reversed(list(zip(positions, delays, strict=False))):
        mixed.insert(position, delay)

    assert fold(mixed) == fold([*delays[: len(positions)], *others])
    assert 0 not in fold(mixed).delays, "scene 0 has a segment"


@given(st.lists(ANY_EVENT, max_size=20), ANY_DELAY)
def test_a_delay_changes_neither_status_nor_percentage(
    events: list[AnyRunEvent], delay: AnyRunEvent
) -> None:
    """A delay only states why a run waits."""
    newest = [event for event in events if event.run == delay.run]
    view = fold([*newest, a_scene(0, count=2, run=delay.run)])
    after = project(view, delay, at=AT).view

    assert (after.status, after.percentage) == (view.status, view.percentage)


def test_a_delay_after_its_segment_changes_nothing() -> None:
    """The topics may be read in this order."""
    view = fold([a_delay(), a_segment(0, count=2)])

    change = project(view, a_delay(), at=AT)

    assert view.delays == {}
    assert change.view == view
    assert change.scene is None


def test_a_delay_keeps_its_start_when_the_reason_changes() -> None:
    """First busy, then without credit; a repeated delay changes nothing."""
    busy = a_delay(code=WaitCode.PROVIDER_BUSY, reason="503")
    first = project(None, busy, at=AT).view
    again = project(first, busy, at=AT + timedelta(minutes=1))
    later = project(first, a_delay(), at=AT + timedelta(minutes=2)).view
    ended = project(later, a_delay(over=True), at=AT + timedelta(minutes=3)).view

    assert again.view == first
    assert again.scene is None
    assert (later.delays[0].code, later.delays[0].since) == (WaitCode.PROVIDER_PAUSED, AT)
    assert ended.delays == {}


@given(st.sampled_from(a_complete_run()), st.integers(2, 3))
def test_a_superseded_run_stays_superseded_until_it_completes(
    late: AnyRunEvent, newest: int
) -> None:
    """Late events of an older run change its view; only completion changes its status."""
    view = project(fold([a_scene(0, count=2)]), late, at=AT).view

    assert view.status_beside(1) is view.status
    ended = view.status is RunStatus.COMPLETED
    assert view.status_beside(newest) is (RunStatus.COMPLETED if ended else RunStatus.SUPERSEDED)


def test_a_run_starts_with_its_first_request() -> None:
    """Other topics may be read earlier, and clocks of other services may be behind."""
    early, late = AT - timedelta(seconds=5), AT + timedelta(seconds=5)
    segment = project(None, a_segment(0, count=2), at=early).view
    requested = project(segment, a_scene(0, count=2), at=late).view
    again = project(requested, a_scene(1, count=2), at=AT).view

    assert (segment.started_at, requested.started_at, again.started_at) == (early, late, AT)
    assert project(again, a_track(), at=early).view.started_at == AT


@given(st.permutations([a_scene(0, count=3), a_segment(0, count=2, params=WITH_VIDEO), a_track()]))
def test_contradicting_events_give_the_same_view_in_any_order(
    events: list[AnyRunEvent],
) -> None:
    """The smaller scene count and no video count, so that no status falls."""
    view = fold(events)

    assert view.scene_count == 2
    assert view.params == AudioParams()


def test_a_completed_run_ignores_a_late_failure_or_cancel() -> None:
    """The result exists and remains."""
    view = fold([*a_complete_run(), a_failure(), a_cancel()])

    assert view.status is RunStatus.COMPLETED


def test_a_failed_run_is_completed_by_the_result_of_a_later_stage() -> None:
    """An operator retried it."""
    failed = fold([*a_complete_run()[:4], a_failure(stage=Stage.MERGE)])
    assert failed.status is RunStatus.FAILED

    assert fold([a_track(), a_video()], failed).status is RunStatus.COMPLETED


def test_a_failed_mux_leaves_the_track_in_the_view() -> None:
    """The track can still be downloaded."""
    view = fold([*a_complete_run()[:5], a_failure()])

    assert view.status is RunStatus.FAILED
    assert view.track is not None


def test_the_failure_of_the_later_stage_counts() -> None:
    """The message does not depend on the order of partitions."""
    generation, mux = a_failure(stage=Stage.GENERATION, scene=1), a_failure()

    assert fold([generation, mux]).failure == fold([mux, generation]).failure == mux


def test_a_newer_run_starts_with_an_empty_view() -> None:
    """Events of different runs are never mixed."""
    view = fold([*a_complete_run(1), a_segment(1, count=2, run=2)])

    assert (view.run, view.done, view.track) == (2, frozenset({1}), None)


def test_the_fold_handles_every_event_of_a_run() -> None:
    """The union that `project` matches lists every subclass of `RunEvent`."""
    assert set(get_args(AnyRunEvent)) == {e for e in EVENTS if issubclass(e, RunEvent)}


def test_the_diagram_shows_exactly_the_allowed_transitions() -> None:
    """docs/job-states.md matches the code."""
    drawn = {
        (before, after)
        for before, after in re.findall(r"^    (\w+) --> (\w+)$", STATES.read_text(), re.MULTILINE)
    }

    assert drawn == {(before.value, after.value) for before in ALLOWED for after in ALLOWED[before]}


def test_an_event_of_a_run_is_distinguished_from_others() -> None:
    """`video.stitched` belongs to a job, not to a run."""
    scene = a_scene(0)

    assert run_event(scene) is scene
    assert run_event(VideoStitched(job_id="1", scenes=({"duration_s": 1},))) is None


def test_contradicting_requests_give_one_view_in_any_order() -> None:
    """Requests of one run with other videos, and with other parameters."""
    videos = [a_scene(0, video={"object": f"videos/{name}"}) for name in "ab"]
    params = [a_scene(0, params=AudioParams(prompt=name)) for name in "ab"]

    for first, second in (videos, params):
        view = fold([first, second])
        assert view == fold([second, first])
        assert (view.video, view.params) in {
            (event.video, event.params) for event in (first, second)
        }


def test_a_run_is_generated_when_its_first_track_was_merged() -> None:
    """A track merged again does not change that time."""
    view: RunView | None = None
    for hours in (0, 5):
        view = project(view, a_track(), at=AT + timedelta(hours=hours)).view

    assert view is not None
    assert view.generated_at == AT


def test_of_two_failures_of_a_stage_that_of_a_scene_is_shown() -> None:
    """In any order; a failure without a scene says less."""
    failures: list[AnyRunEvent] = [a_failure(stage=Stage.GENERATION, scene=s) for s in (None, 0)]

    for events in (failures, failures[::-1]):
        failure = fold(events).failure
        assert failure is not None
        assert failure.scene_index == 0


def test_a_failure_changes_its_scene_only_if_it_names_an_unfinished_one() -> None:
    """A failed merge belongs to no scene, and a finished scene stays finished."""
    view = fold([a_segment(0)])
    changes = [
        project(view, a_failure(stage=Stage.GENERATION, scene=scene), at=AT).scene is not None
        for scene in (None, 0, 1)
    ]

    assert changes == [False, False, True]
