"""Times as people type and read them: one format, without microseconds, in UTC."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import ops
from ops.__main__ import app
from ops.cli.exit_codes import Exit
from ops.cli.times import format_time, parse_moment

NOW = datetime(2026, 11, 30, 9, 30, 15, 123456, tzinfo=UTC)
ROOT = Path(ops.__file__).parent
TYPED = [
    ("1h", "2026-11-30T08:30:15Z"),
    ("90m", "2026-11-30T08:00:15Z"),
    ("90 min ago", "2026-11-30T08:00:15Z"),
    ("1h30m", "2026-11-30T08:00:15Z"),
    ("1.5 hours", "2026-11-30T08:00:15Z"),
    ("2d", "2026-11-28T09:30:15Z"),
    ("1 week", "2026-11-23T09:30:15Z"),
    ("30s", "2026-11-30T09:29:45Z"),
    ("now", "2026-11-30T09:30:15Z"),
    ("today", "2026-11-30T00:00:00Z"),
    ("Yesterday", "2026-11-29T00:00:00Z"),
    ("04:00", "2026-11-30T04:00:00Z"),
    ("4:00:30", "2026-11-30T04:00:30Z"),
    ("04:00Z", "2026-11-30T04:00:00Z"),
    ("10:00", "2026-11-29T10:00:00Z"),  # the last ten o'clock
    ("2026-01-31", "2026-01-31T00:00:00Z"),
    ("2026-01-31 12:00", "2026-01-31T12:00:00Z"),
    ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
    ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
    ("2026-01-31 12:00:00 UTC", "2026-01-31T12:00:00Z"),
    ("2026-01-31T12:00:00.654321+02:00", "2026-01-31T10:00:00Z"),
    ("2026-01-31T12:00:00+0000", "2026-01-31T12:00:00Z"),
]


@pytest.mark.parametrize(("text", "at"), TYPED)
def test_a_time_is_typed_in_many_forms_and_printed_in_one(text: str, at: str) -> None:
    """A duration is that long ago, a clock time the last one."""
    assert format_time(parse_moment(text, now=NOW).at) == at


@pytest.mark.parametrize(
    "text",
    ["", "soon", "12", "1y", "h", "25:00", "04:60", "2026-13-01", "-1h", "9" * 30 + "d", "1h x"],
)
def test_another_form_is_rejected_with_the_forms(text: str) -> None:
    """The message names the value."""
    with pytest.raises(
        ValueError, match="is not a time; use 1h, 30m, 2d, today, 04:00"
    ) as rejected:
        parse_moment(text, now=NOW)

    assert str(rejected.value).startswith(text)


@pytest.mark.parametrize("command", [["jobs", "--since"], ["replay", "t", "--until"]])
def test_an_invalid_time_names_its_option(command: list[str]) -> None:
    """Before any server is connected."""
    result = CliRunner().invoke(app, [*command, "soon"], env={"COLUMNS": "200"})

    assert result.exit_code == Exit.USAGE
    assert command[-1] in result.stderr
    assert "soon is not a time; use 1h" in result.stderr


@given(
    moment=st.datetimes(
        min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - the zone is drawn too
        timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours))),
    )
)
def test_a_printed_time_can_be_typed_again(moment: datetime) -> None:
    """Whatever its zone."""
    printed = format_time(moment)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", printed)
    assert parse_moment(printed, now=NOW).at == moment.astimezone(UTC).replace(microsecond=0)


def test_only_one_module_formats_times_for_people() -> None:
    """`isoformat` is for documents and the audit."""
    formats = re.compile(r"strftime|:%[YmdHM]|\[:19\]")
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}

    assert [name for name, text in sources.items() if formats.search(text)] == ["cli/times.py"]
    for name, text in sources.items():
        for line in text.splitlines():
            assert "isoformat()" not in line or "yield" not in line, (name, line)
