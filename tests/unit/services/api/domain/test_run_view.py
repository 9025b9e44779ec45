"""The projection as a fold: order, duplicates, stale runs, replays."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from services.api.domain.run_view import ALLOWED, RANK, AnyRunEvent, RunStatus, RunView, project
from shared.contract.events import EVENTS, JobFailed, RunEvent, SceneDelayed, Stage, WaitCode
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
    """What is known of the newest run after all of them."""
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


def test_a_run_passes_through_its_states_in_the_order_of_the_line() -> None:
    """Asked, first segment, all segments, track, video."""
    view: RunView | None = None
    seen = []
    for event in a_complete_run():
        view = project(view, event, at=AT).view
        seen.append(view.status.value)

    assert seen == ["submitted", "submitted", "generating", "merging", "muxing", "completed"]


def test_without_a_video_the_track_completes_the_run() -> None:
    """merge_with_video was not asked for."""
    view = fold([a_track(params=AudioParams())])

    assert view.status is RunStatus.COMPLETED
    assert view.percentage == 100


@given(st.lists(ANY_EVENT | ANY_DELAY, min_size=1, max_size=30))
def test_neither_run_nor_status_nor_percentage_ever_goes_back(events: list[AnyRunEvent]) -> None:
    """Whatever comes in whatever order, and every step is one that the diagram allows."""
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
def test_a_duplicate_changes_nothing(events: list[AnyRunEvent], data: st.DataObject) -> None:
    """Any event already folded, said again at any later moment."""
    again = data.draw(st.sampled_from(events))
    view = fold([event for event in events if event.run == again.run])
    change = project(view, again, at=AT)

    assert change.view == view
    assert change.scene is None or isinstance(change.scene, JobFailed)


@given(st.permutations([*a_complete_run(), a_failure(), a_failure(stage=Stage.MERGE)]))
def test_the_order_of_reading_decides_nothing_about_a_run(events: list[AnyRunEvent]) -> None:
    """Topics are read side by side: every order of the same facts is the same view."""
    assert fold(events) == fold([*a_complete_run(), a_failure(), a_failure(stage=Stage.MERGE)])


@given(
    st.lists(st.builds(a_delay, st.integers(0, 2), over=st.booleans()), max_size=8),
    st.permutations(
        [*a_complete_run()[:3], a_failure(stage=Stage.GENERATION, scene=1), a_cancel()]
    ),
    st.data(),
)
def test_topics_read_in_any_order_beside_the_delays_end_in_the_same_view(
    delays: list[SceneDelayed], others: list[AnyRunEvent], data: st.DataObject
) -> None:
    """Delays keep the order of their own topic; where the others fall between decides nothing."""
    places = sorted(data.draw(st.lists(st.integers(0, len(others)), min_size=len(delays))))
    mixed = list(others)
    for place, delay in reversed(list(zip(places, delays, strict=False))):
        mixed.insert(place, delay)

    assert fold(mixed) == fold([*delays[: len(places)], *others])
    assert 0 not in fold(mixed).delays, "its segment is there"


@given(st.lists(ANY_EVENT, max_size=20), ANY_DELAY)
def test_a_delay_changes_neither_status_nor_percentage(
    events: list[AnyRunEvent], delay: AnyRunEvent
) -> None:
    """It says why a run stands still, not where."""
    newest = [event for event in events if event.run == delay.run]
    view = fold([*newest, a_scene(0, count=2, run=delay.run)])
    after = project(view, delay, at=AT).view

    assert (after.status, after.percentage) == (view.status, view.percentage)


def test_a_delay_that_is_read_after_its_segment_changes_nothing() -> None:
    """Another topic was faster."""
    view = fold([a_delay(), a_segment(0, count=2)])

    change = project(view, a_delay(), at=AT)

    assert view.delays == {}
    assert change.view == view
    assert change.scene is None


def test_a_wait_begins_once_whatever_it_waits_for_next() -> None:
    """A busy provider that turns out to want money; told twice in a row it is told once."""
    busy = a_delay(code=WaitCode.PROVIDER_BUSY, reason="503")
    first = project(None, busy, at=AT).view
    again = project(first, busy, at=AT + timedelta(minutes=1))
    then = project(first, a_delay(), at=AT + timedelta(minutes=2)).view
    gone = project(then, a_delay(over=True), at=AT + timedelta(minutes=3)).view

    assert again.view == first
    assert again.scene is None
    assert (then.delays[0].code, then.delays[0].since) == (WaitCode.PROVIDER_PAUSED, AT)
    assert gone.delays == {}


@given(st.sampled_from(a_complete_run()), st.integers(2, 3))
def test_what_is_told_of_a_superseded_run_is_kept_and_only_its_end_shows(
    late: AnyRunEvent, newest: int
) -> None:
    """A newer run supersedes from its first event on; what the older made stays a fact."""
    view = project(fold([a_scene(0, count=2)]), late, at=AT).view

    assert view.status_beside(1) is view.status
    ended = view.status is RunStatus.COMPLETED
    assert view.status_beside(newest) is (RunStatus.COMPLETED if ended else RunStatus.SUPERSEDED)


def test_a_run_began_with_its_first_request_whatever_was_read_before() -> None:
    """Other topics may be faster, and their services' clocks may be behind."""
    early, late = AT - timedelta(seconds=5), AT + timedelta(seconds=5)
    segment = project(None, a_segment(0, count=2), at=early).view
    asked = project(segment, a_scene(0, count=2), at=late).view
    again = project(asked, a_scene(1, count=2), at=AT).view

    assert (segment.started_at, asked.started_at, again.started_at) == (early, late, AT)
    assert project(again, a_track(), at=early).view.started_at == AT


@given(st.permutations([a_scene(0, count=3), a_segment(0, count=2, params=WITH_VIDEO), a_track()]))
def test_of_what_contradicts_itself_one_word_counts_whichever_came_first(
    events: list[AnyRunEvent],
) -> None:
    """Fewer scenes, no video: so that no status ever falls."""
    view = fold(events)

    assert view.scene_count == 2
    assert view.params == AudioParams()


def test_a_completed_run_is_not_undone_by_a_late_failure_or_cancel() -> None:
    """The result is there; nothing takes it away."""
    view = fold([*a_complete_run(), a_failure(), a_cancel()])

    assert view.status is RunStatus.COMPLETED


def test_a_failed_run_is_completed_by_the_result_of_a_later_stage() -> None:
    """An operator ran it again."""
    failed = fold([*a_complete_run()[:4], a_failure(stage=Stage.MERGE)])
    assert failed.status is RunStatus.FAILED

    assert fold([a_track(), a_video()], failed).status is RunStatus.COMPLETED


def test_a_failed_mux_leaves_the_track_in_the_view() -> None:
    """The track stays downloadable."""
    view = fold([*a_complete_run()[:5], a_failure()])

    assert view.status is RunStatus.FAILED
    assert view.track is not None


def test_of_two_failures_the_later_stage_counts_whichever_is_read_first() -> None:
    """So that the message does not depend on the order of partitions."""
    generation, mux = a_failure(stage=Stage.GENERATION, scene=1), a_failure()

    assert fold([generation, mux]).failure == fold([mux, generation]).failure == mux


def test_a_newer_run_begins_with_nothing_of_the_older() -> None:
    """Runs are never mixed."""
    view = fold([*a_complete_run(1), a_segment(1, count=2, run=2)])

    assert (view.run, view.done, view.track) == (2, frozenset({1}), None)


def test_the_fold_handles_every_event_of_a_run() -> None:
    """The union that `project` matches lists every subclass of `RunEvent`."""
    assert set(get_args(AnyRunEvent)) == {e for e in EVENTS if issubclass(e, RunEvent)}


def test_the_diagram_in_the_documents_shows_exactly_the_allowed_transitions() -> None:
    """docs/job-states.md and the code say the same."""
    drawn = {
        (before, after)
        for before, after in re.findall(r"^    (\w+) --> (\w+)$", STATES.read_text(), re.MULTILINE)
    }

    assert drawn == {(one.value, other.value) for one in ALLOWED for other in ALLOWED[one]}
