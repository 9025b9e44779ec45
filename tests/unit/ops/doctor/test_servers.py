"""What `segue doctor` says of tables and clocks."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.doctor.servers import clocks, tables

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("have", "ok", "found"),
    [
        ({1, 2}, True, "2 migrations, all there"),
        ({1}, False, "1 of 2 migrations are missing"),
        (set(), False, "not there yet"),
        ({1, 2, 3}, False, "of a newer version (0003)"),
    ],
)
def test_tables_are_those_of_this_version_or_older_or_newer(
    have: set[int], *, ok: bool, found: str
) -> None:
    """Each with its own way out."""
    told = tables(have, {1, 2})

    assert told.ok is ok
    assert found in told.found
    assert bool(told.advice) is not ok


@pytest.mark.parametrize(("apart_s", "ok"), [(0.2, True), (-0.2, True), (9, False), (-9, False)])
def test_clocks_may_differ_by_what_the_question_took_and_a_little_more(
    apart_s: float, *, ok: bool
) -> None:
    """Whichever is ahead."""
    moment = NOW + timedelta(seconds=apart_s)

    assert clocks(moment, before=NOW, after=NOW + timedelta(seconds=0.1)).ok is ok
