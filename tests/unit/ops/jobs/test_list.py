"""The options of `segue jobs` and the table it prints."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.jobs.list import COLUMNS, format_age, job_row, jobs_table, last_line, parse_statuses
from services.api.operators import LISTED, JobSummary

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def a_summary(**fields: Any) -> JobSummary:
    """Return a job that failed an hour ago."""
    defaults: dict[str, Any] = {
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
    return JobSummary(**{**defaults, **fields})


def test_no_status_selects_all_and_processing_selects_every_unfinished_one() -> None:
    """The contract's `processing` stands for four internal statuses."""
    assert parse_statuses([]) == frozenset(LISTED)
    assert parse_statuses(["processing", "failed"]) == {
        "submitted",
        "generating",
        "merging",
        "muxing",
        "failed",
    }


@pytest.mark.parametrize(
    ("status", "message"), [("done", "status done not found"), ("superseded", "segue job JOB")]
)
def test_a_status_that_no_listed_job_has_is_rejected(status: str, message: str) -> None:
    """The message lists the statuses, or names the command to use."""
    with pytest.raises(CommandError, match=message) as rejected:
        parse_statuses([status])

    assert rejected.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3 * 3600 + 120, "3 h 2 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_an_age_has_its_largest_unit_and_the_next_one(seconds: float, text: str) -> None:
    """Ages are formatted for people."""
    assert format_age(seconds) == text


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_every_column_and_never_truncates_a_job_id(width: int) -> None:
    """A long id wraps, so that it can be copied."""
    long_id = "x" * 150
    rows = [job_row(summary, now=NOW) for summary in (a_summary(), a_summary(job_id=long_id))]
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as output:
        console.print(jobs_table(rows))

    text = output.get()
    assert " ".join(text.split()).startswith(" ".join(COLUMNS))
    assert all(word in text for word in ("film-7", "3/12", "$0.04", "1 h 0 min", "no film"))
    assert text.count("x") == len(long_id)
    assert max(map(len, text.splitlines())) <= width


def test_a_job_without_a_run_has_no_scenes_and_a_waiting_one_has_its_reason() -> None:
    """Neither job has failed."""
    pending = job_row(a_summary(run=0, status="pending", error=None, cost_usd=None), now=NOW)
    waiting = job_row(a_summary(error=None, waits="no credit", scene_count=0), now=NOW)
    console = Console(width=120)
    with console.capture() as output:
        console.print(jobs_table([pending, waiting]))

    _, first, second = output.get().splitlines()
    assert ("/" in first, "$" in first) == (False, False)
    assert "3/?" in second
    assert "waiting: no credit" in second


def test_the_last_line_names_the_next_page_or_the_number_of_jobs() -> None:
    """The job id is quoted for the shell."""
    rows = [job_row(a_summary(), now=NOW)]

    assert last_line({"jobs": rows, "next": "my film"}, LISTED) == (
        "For more: add --after 'my film'"
    )
    assert last_line({"jobs": rows, "next": None}, LISTED) == "1 job."
    assert last_line({"jobs": [], "next": None}, {"failed"}) == "No failed jobs."
    assert last_line({"jobs": [], "next": None}, LISTED) == "No jobs."
