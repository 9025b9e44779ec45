"""The projection as a state machine: views are what was told, whatever the order of telling."""

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


def everything_of(run: int) -> list[AnyRunEvent]:
    """What can be told of a run."""
    failures = [a_failure(run), a_failure(run, Stage.GENERATION, 1), a_failure(run, Stage.MUX)]
    return [*a_complete_run(run), *failures, a_cancel(run)]


class ProjectionLife(RuleBasedStateMachine):
    """Events of three runs come in any order and number.

    The model: the set of what was told of each run. A view is a function of that set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[int, RunView] = {}
        self.told: dict[int, list[AnyRunEvent]] = {run: [] for run in RUNS}
        self.shown: dict[int, RunStatus] = {}

    def _hear(self, event: AnyRunEvent) -> None:
        self.views[event.run] = project(self.views.get(event.run), event, at=AT).view
        if event not in self.told[event.run]:
            self.told[event.run].append(event)

    @rule(run=st.sampled_from(RUNS), data=st.data())
    def tell(self, run: int, data: Any) -> None:
        """Something of a run."""
        self._hear(data.draw(st.sampled_from(everything_of(run))))

    @precondition(lambda self: any(self.told.values()))
    @rule(data=st.data())
    def repeat(self, data: Any) -> None:
        """Something that was told before; it changes nothing."""
        known = [event for events in self.told.values() for event in events]
        event = data.draw(st.sampled_from(known))
        before = dict(self.views)
        self._hear(event)
        assert self.views == before

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """A run is read anew from its beginning, in another order: the same view."""
        run = data.draw(st.sampled_from(sorted(self.views)))
        view: RunView | None = None
        for event in data.draw(st.permutations(self.told[run])):
            view = project(view, event, at=AT).view
        assert view == self.views[run]

    @invariant()
    def what_is_shown_only_goes_forward(self) -> None:
        """Each run's status, and only by steps that the diagram has."""
        newest = max(self.views, default=0)
        for run, view in self.views.items():
            now = view.status_beside(newest)
            before = self.shown.get(run, now)
            assert RANK[now] >= RANK[before]
            assert now == before or now in ALLOWED[before]
            assert (now is RunStatus.SUPERSEDED) <= (run < newest)
            self.shown[run] = now


TestProjectionLife = ProjectionLife.TestCase
TestProjectionLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
