"""Tests of ops/doctor/servers.py: the checks of tables and clocks."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.doctor.servers import check_clocks, check_tables

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("applied", "ok", "message"),
    [
        ({1, 2}, True, "2 of 2 migrations applied"),
        ({1}, False, "1 of 2 migrations missing"),
        (set(), False, "no tables"),
        ({1, 2, 3}, False, "of a newer version (0003)"),
    ],
)
def test_tables_of_another_version_are_reported(
    applied: set[int], *, ok: bool, message: str
) -> None:
    """Each state but the right one has its own advice."""
    check = check_tables(applied, {1, 2})

    assert check.ok is ok
    assert message in check.found
    assert bool(check.advice) is not ok


@pytest.mark.parametrize(("skew_s", "ok"), [(0.2, True), (-0.2, True), (9, False), (-9, False)])
def test_clocks_may_differ_by_the_query_time_and_the_allowed_skew(
    skew_s: float, *, ok: bool
) -> None:
    """Either clock may be ahead."""
    server_time = NOW + timedelta(seconds=skew_s)

    assert check_clocks(server_time, before=NOW, after=NOW + timedelta(seconds=0.1)).ok is ok
