"""What `segue jobs` understands, and how it says what it found."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.jobs.list import COLUMNS, age_of, last_line, line_of, statuses_of, table
from services.api.database.job_list import LISTED, JobSummary

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def a_line(**given: Any) -> JobSummary:
    """A job that failed an hour ago."""
    told: dict[str, Any] = {
        "job_id": "film-7",
        "run": 2,
        "status": "failed",
        "at": NOW - timedelta(hours=1),
        "generated_at": None,
        "scenes_done": 3,
        "scene_count": 12,
        "cost_usd": 0.04,
        "saved_usd": None,
        "error": "no film\nbut a page",
        "waits": None,
    }
    return JobSummary(**{**told, **given})


def test_nothing_asked_for_means_all_and_processing_all_that_is_under_way() -> None:
    """The contract's word stands for four of ours."""
    assert statuses_of([]) == frozenset(LISTED)
    assert statuses_of(["processing", "failed"]) == {
        "submitted",
        "generating",
        "merging",
        "muxing",
        "failed",
    }


@pytest.mark.parametrize(
    ("status", "told"), [("done", "there is no status done"), ("superseded", "segue job JOB")]
)
def test_a_status_that_no_listed_job_has_is_refused(status: str, told: str) -> None:
    """With those that there are, or the command that shows it."""
    with pytest.raises(CommandError, match=told) as refused:
        statuses_of([status])

    assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3 * 3600 + 120, "3 h 2 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, told: str) -> None:
    """And the next one."""
    assert age_of(seconds) == told


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_has_its_columns_and_never_cuts_a_job_off(width: int) -> None:
    """The id is there to be copied, however long it is."""
    long_id = "x" * 150
    lines = [line_of(one, now=NOW) for one in (a_line(), a_line(job_id=long_id))]
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as drawn:
        console.print(table(lines))

    text = drawn.get()
    assert all(column in text.splitlines()[0] for column in COLUMNS)
    assert all(word in text for word in ("film-7", "3/12", "$0.04", "1 h 0 min", "no film"))
    assert text.count("x") == len(long_id)
    assert max(map(len, text.splitlines())) <= width


def test_a_job_that_nobody_asked_for_has_no_scenes_and_one_that_waits_says_for_what() -> None:
    """Neither failed."""
    pending = line_of(a_line(run=0, status="pending", error=None, cost_usd=None), now=NOW)
    waits = line_of(a_line(error=None, waits="no credit", scene_count=0), now=NOW)
    console = Console(width=120)
    with console.capture() as drawn:
        console.print(table([pending, waits]))

    _, first, second = drawn.get().splitlines()
    assert ("/" in first, "$" in first) == (False, False)
    assert "3/?" in second
    assert "waits: no credit" in second


def test_the_last_line_says_how_to_go_on_or_that_there_is_no_more() -> None:
    """The job's id as a shell reads it."""
    one = [line_of(a_line(), now=NOW)]

    assert last_line({"jobs": one, "next": "my film"}, LISTED) == "more: --after 'my film'"
    assert last_line({"jobs": one, "next": None}, LISTED) == "1 jobs, and no more"
    assert last_line({"jobs": [], "next": None}, {"failed"}) == "no job that is failed"
    assert last_line({"jobs": [], "next": None}, LISTED) == "no job"
