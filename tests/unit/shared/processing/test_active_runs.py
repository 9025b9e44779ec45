"""A newer run supersedes an older one at once, and a cancelled run stops."""

from hypothesis import given
from hypothesis import strategies as st

from shared.processing.active_runs import ActiveRuns


def test_a_newer_run_supersedes_an_older_one() -> None:
    """From its first event on; late events of the older run change nothing."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 1)
    active_runs.observe("a", 2)
    active_runs.observe("a", 1)

    assert not active_runs.is_current("a", 1)
    assert active_runs.is_current("a", 2)
    assert active_runs.is_current("a", 3), "a run that was not observed may be the newest"


def test_jobs_are_independent() -> None:
    """Each job has its own runs."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 5)
    active_runs.cancel("b", 1)

    assert active_runs.is_current("a", 5)
    assert active_runs.is_current("b", 2)
    assert not active_runs.is_current("b", 1)
    assert active_runs.is_current("c", 1)


def test_a_cancelled_run_stays_cancelled_until_a_newer_one_is_observed() -> None:
    """Late events of the cancelled run do not make it current again."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 1)
    active_runs.cancel("a", 1)
    active_runs.observe("a", 1)
    assert not active_runs.is_current("a", 1)

    active_runs.observe("a", 2)
    assert active_runs.is_current("a", 2)


def test_cancelling_an_old_run_does_not_affect_a_newer_one() -> None:
    """The cancellation may arrive late."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 2)
    active_runs.cancel("a", 1)

    assert active_runs.is_current("a", 2)


def test_the_least_recently_observed_job_is_evicted() -> None:
    """Eviction costs work, never correctness."""
    active_runs = ActiveRuns(jobs_max=2)
    active_runs.observe("a", 2)
    active_runs.observe("b", 2)
    active_runs.observe("a", 2)
    active_runs.observe("c", 2)

    assert not active_runs.is_current("a", 1)
    assert active_runs.is_current("b", 1), "b was evicted"
    assert not active_runs.is_current("c", 1)


_events = st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=20)


@given(_events)
def test_the_order_of_events_does_not_matter(events: list[tuple[bool, int]]) -> None:
    """A run is current if no newer one was observed and it was not cancelled."""
    active_runs = ActiveRuns()
    for is_cancel, run in events:
        (active_runs.cancel if is_cancel else active_runs.observe)("a", run)

    newest = max((run for _, run in events), default=0)
    for run in range(1, 7):
        # A cancellation of a run that is not the newest is not stored: the run is not current.
        assert active_runs.is_current("a", run) == (run >= newest and (True, run) not in events)
