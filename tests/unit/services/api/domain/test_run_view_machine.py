"""The fold as a state machine: a view depends on the set of events, not on their order."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.api.domain.run_view import ALLOWED, RANK, AnyRunEvent, RunStatus, RunView, project
from shared.contract.events import Stage
from tests.support.run_builders import a_cancel, a_complete_run, a_failure

AT = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = (1, 2, 3)


def events_of(run: int) -> list[AnyRunEvent]:
    """Return every kind of event of a run."""
    failures = [a_failure(run), a_failure(run, Stage.GENERATION, 1), a_failure(run, Stage.MUX)]
    return [*a_complete_run(run), *failures, a_cancel(run)]


class ProjectionLife(RuleBasedStateMachine):
    """Events of three runs are applied in any order and number.

    The model is the set of applied events per run; a view is a function of that set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[int, RunView] = {}
        self.applied: dict[int, list[AnyRunEvent]] = {run: [] for run in RUNS}
        self.statuses: dict[int, RunStatus] = {}

    def _apply(self, event: AnyRunEvent) -> None:
        self.views[event.run] = project(self.views.get(event.run), event, at=AT).view
        if event not in self.applied[event.run]:
            self.applied[event.run].append(event)

    @rule(run=st.sampled_from(RUNS), data=st.data())
    def apply(self, run: int, data: Any) -> None:
        """Apply any event of a run."""
        self._apply(data.draw(st.sampled_from(events_of(run))))

    @precondition(lambda self: any(self.applied.values()))
    @rule(data=st.data())
    def repeat(self, data: Any) -> None:
        """Apply an event again; nothing changes."""
        known = [event for events in self.applied.values() for event in events]
        event = data.draw(st.sampled_from(known))
        before = dict(self.views)
        self._apply(event)
        assert self.views == before

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """Apply the events of a run from the start in another order; the view is the same."""
        run = data.draw(st.sampled_from(sorted(self.views)))
        view: RunView | None = None
        for event in data.draw(st.permutations(self.applied[run])):
            view = project(view, event, at=AT).view
        assert view == self.views[run]

    @invariant()
    def statuses_only_advance(self) -> None:
        """Each status advances only by transitions of the diagram."""
        newest = max(self.views, default=0)
        for run, view in self.views.items():
            now = view.status_beside(newest)
            before = self.statuses.get(run, now)
            assert RANK[now] >= RANK[before]
            assert now == before or now in ALLOWED[before]
            assert (now is RunStatus.SUPERSEDED) <= (run < newest)
            self.statuses[run] = now


TestProjectionLife = ProjectionLife.TestCase
TestProjectionLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
