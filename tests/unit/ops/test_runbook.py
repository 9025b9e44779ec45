"""Tests of docs/runbook.md: its commands exist, and a test runs each section."""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from ops.__main__ import app
from tests.support.runbook import PAGE, blanks, missing_line, sections

TESTS = Path(__file__).parents[2]
#: the test that runs each section from the page
RUN_BY = {
    "check-the-system": "faults/test_runbook_disk.py",
    "a-job-is-stuck": "faults/test_runbook_key.py",
    "lag": "faults/test_runbook_key.py",
    "dead-letters": "faults/test_runbook_poison.py",
    "records-that-cannot-be-decoded": "faults/test_odd_records.py",
    "replay-records": "faults/test_runbook_disk.py",
    "redrive-a-job": "faults/test_runbook_key.py",
    "the-provider-rejects-requests": "faults/test_runbook_key.py",
    "cancel-a-job": "faults/test_runbook_key.py",
    "rows-differ-from-the-log": "faults/test_runbook_disk.py",
    "the-store-fills-up": "faults/test_runbook_disk.py",
}
#: sections without commands to run
READ = {"stop-and-start", "a-dependency-is-unavailable", "alerts"}
#: example values for the placeholders
FILLED = {"MOMENT": "2026-01-01T00:00:00", "PLACE": "scene.requested.dlq/0/3", "SCENE": "3"}
COMMANDS = [
    pytest.param(command, id=f"{section.anchor}: {command}")
    for section in sections().values()
    for command in section.commands()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_exists(command: str) -> None:
    """Its name, options and the form of their values are checked; nothing is run."""
    _, *words = shlex.split(command)
    words = [FILLED.get(word, "7") if blanks(word) == {word} else word for word in words]
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands"):
        name = words.pop(0)
        group = group.get_command(None, name)
        assert group is not None, f"segue … {name} not found"

    if words:  # a sentence may name a command without its arguments
        group.make_context(group.name, words)


def test_every_section_with_commands_is_run_by_a_test() -> None:
    """The test reads the page, so that operators get the steps that were tested."""
    with_steps = {section.anchor for section in sections().values() if section.steps}

    assert with_steps == set(RUN_BY)
    assert set(sections()) == with_steps | READ


@pytest.mark.parametrize(("anchor", "path"), list(RUN_BY.items()))
def test_the_test_of_a_section_runs_all_of_it(anchor: str, path: str) -> None:
    """Each RunbookOperator asserts at its end that no step is left."""
    source = (TESTS / path).read_text(encoding="utf-8")
    nodes = ast.walk(ast.parse(source))
    constants = {node.value for node in nodes if isinstance(node, ast.Constant)}

    assert anchor in constants
    assert source.count("RunbookOperator(") == source.count(".assert_complete()") > 0


def test_every_internal_link_of_the_page_has_its_section() -> None:
    """Only the page's own anchors are checked."""
    text = PAGE.read_text(encoding="utf-8")
    anchors = {part.split(")")[0] for part in text.split("](#")[1:]}

    assert anchors <= set(sections())


LINES = [
    (("a …", "b 2"), "a 1\n b   2\n", None),
    (("b", "a"), "a\nb\n", "a"),
    (("a",), "ab\n", "a"),
    (("a",), "a\nexit code 3\n", "no exit code 3"),
    (("a", "exit code 3"), "a\nexit code 3\n", None),
]


@pytest.mark.parametrize(("expected", "output", "missing"), LINES)
def test_expected_lines_are_found_in_their_order(
    expected: tuple[str, ...], output: str, missing: str | None
) -> None:
    """Blanks count as one; other lines may be between; an exit code is never skipped."""
    assert missing_line(expected, output) == missing
