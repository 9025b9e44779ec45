"""Runs: a newer run supersedes an older one at once, and a cancelled one stops."""

from hypothesis import given
from hypothesis import strategies as st

from shared.processing.active_runs import RunBook


def test_a_newer_run_supersedes_the_older() -> None:
    """From the moment its first record is seen, and whatever comes late."""
    book = RunBook()
    book.note("a", 1)
    book.note("a", 2)
    book.note("a", 1)

    assert not book.counts("a", 1)
    assert book.counts("a", 2)
    assert book.counts("a", 3), "a run this process has not heard of may be the newest"


def test_jobs_do_not_touch_each_other() -> None:
    """Each has its own runs."""
    book = RunBook()
    book.note("a", 5)
    book.cancel("b", 1)

    assert book.counts("a", 5)
    assert book.counts("b", 2)
    assert not book.counts("b", 1)
    assert book.counts("c", 1)


def test_a_cancelled_run_stays_cancelled_until_a_newer_one_comes() -> None:
    """Its own late records do not wake it."""
    book = RunBook()
    book.note("a", 1)
    book.cancel("a", 1)
    book.note("a", 1)
    assert not book.counts("a", 1)

    book.note("a", 2)
    assert book.counts("a", 2)


def test_an_old_cancel_does_not_touch_a_newer_run() -> None:
    """It may have been on its way for long."""
    book = RunBook()
    book.note("a", 2)
    book.cancel("a", 1)

    assert book.counts("a", 2)


def test_the_book_is_bounded_and_forgets_the_longest_unheard() -> None:
    """Forgetting costs work, never correctness."""
    book = RunBook(jobs_max=2)
    book.note("a", 2)
    book.note("b", 2)
    book.note("a", 2)
    book.note("c", 2)

    assert not book.counts("a", 1)
    assert book.counts("b", 1), "b was heard of least recently"
    assert not book.counts("c", 1)


_said = st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=20)


@given(_said)
def test_the_order_in_which_it_hears_does_not_matter(said: list[tuple[bool, int]]) -> None:
    """A run counts if none is newer and nobody cancelled it."""
    book = RunBook()
    for is_cancel, run in said:
        (book.cancel if is_cancel else book.note)("a", run)

    newest = max((run for _, run in said), default=0)
    for run in range(1, 7):
        # A cancel that arrives when its run is not the newest is not remembered: it need not be.
        assert book.counts("a", run) == (run >= newest and (True, run) not in said)
