"""Runs: a newer run supersedes an older one at once, and a cancelled one stops."""

from hypothesis import given
from hypothesis import strategies as st

from shared.processing.active_runs import ActiveRuns


def test_a_newer_run_supersedes_the_older() -> None:
    """From the moment its first record is seen, and whatever comes late."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 1)
    active_runs.observe("a", 2)
    active_runs.observe("a", 1)

    assert not active_runs.is_current("a", 1)
    assert active_runs.is_current("a", 2)
    assert active_runs.is_current("a", 3), "a run this process has not heard of may be the newest"


def test_jobs_do_not_touch_each_other() -> None:
    """Each has its own runs."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 5)
    active_runs.cancel("b", 1)

    assert active_runs.is_current("a", 5)
    assert active_runs.is_current("b", 2)
    assert not active_runs.is_current("b", 1)
    assert active_runs.is_current("c", 1)


def test_a_cancelled_run_stays_cancelled_until_a_newer_one_comes() -> None:
    """Its own late records do not wake it."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 1)
    active_runs.cancel("a", 1)
    active_runs.observe("a", 1)
    assert not active_runs.is_current("a", 1)

    active_runs.observe("a", 2)
    assert active_runs.is_current("a", 2)


def test_an_old_cancel_does_not_touch_a_newer_run() -> None:
    """It may have been on its way for long."""
    active_runs = ActiveRuns()
    active_runs.observe("a", 2)
    active_runs.cancel("a", 1)

    assert active_runs.is_current("a", 2)


def test_the_book_is_bounded_and_forgets_the_longest_unheard() -> None:
    """Forgetting costs work, never correctness."""
    active_runs = ActiveRuns(jobs_max=2)
    active_runs.observe("a", 2)
    active_runs.observe("b", 2)
    active_runs.observe("a", 2)
    active_runs.observe("c", 2)

    assert not active_runs.is_current("a", 1)
    assert active_runs.is_current("b", 1), "b was heard of least recently"
    assert not active_runs.is_current("c", 1)


_said = st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=20)


@given(_said)
def test_the_order_in_which_it_hears_does_not_matter(said: list[tuple[bool, int]]) -> None:
    """A run counts if none is newer and nobody cancelled it."""
    active_runs = ActiveRuns()
    for is_cancel, run in said:
        (active_runs.cancel if is_cancel else active_runs.observe)("a", run)

    newest = max((run for _, run in said), default=0)
    for run in range(1, 7):
        # A cancel that arrives when its run is not the newest is not remembered: it need not be.
        assert active_runs.is_current("a", run) == (run >= newest and (True, run) not in said)
