"""The runbook: every command on the page is one of ours, and every section is run by a test."""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from ops.__main__ import app
from tests.support.runbook import PAGE, blanks, missing_line, sections

TESTS = Path(__file__).parents[2]
#: which test runs a section from the page, step by step
RUN_BY = {
    "check-the-system": "faults/test_runbook_disk.py",
    "a-job-is-stuck": "faults/test_runbook_key.py",
    "lag": "faults/test_runbook_key.py",
    "dead-letters": "faults/test_runbook_poison.py",
    "replay-records": "faults/test_runbook_disk.py",
    "redrive-a-job": "faults/test_runbook_key.py",
    "the-provider-rejects-requests": "faults/test_runbook_key.py",
    "cancel-a-job": "faults/test_runbook_key.py",
    "rows-differ-from-the-log": "faults/test_runbook_disk.py",
    "the-store-fills-up": "faults/test_runbook_disk.py",
}
#: sections that are read: nothing is to be run
READ = {"stop-and-start", "a-dependency-is-unavailable", "alerts"}
#: what an operator might fill in
FILLED = {"MOMENT": "2026-01-01T00:00:00", "PLACE": "scene.requested.dlq/0/3", "SCENE": "3"}
COMMANDS = [
    pytest.param(command, id=f"{one.anchor}: {command}")
    for one in sections().values()
    for command in one.commands()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_is_one_of_ours(command: str) -> None:
    """Its name, its options and the form of their values; nothing is run."""
    _, *words = shlex.split(command)
    words = [FILLED.get(word, "7") if blanks(word) == {word} else word for word in words]
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands"):
        name = words.pop(0)
        assert name in group.commands, f"there is no segue … {name}"
        group = group.commands[name]

    if words:  # a sentence may name a command without what it is asked
        group.make_context(group.name, words)


def test_every_section_with_commands_is_run_by_a_test() -> None:
    """From the page, so that what is told to operators is what was tried."""
    with_steps = {one.anchor for one in sections().values() if one.steps}

    assert with_steps == set(RUN_BY)
    assert set(sections()) == with_steps | READ


@pytest.mark.parametrize(("anchor", "path"), list(RUN_BY.items()))
def test_the_test_that_runs_a_section_names_it_and_does_all_of_it(anchor: str, path: str) -> None:
    """A hand takes the section, and says that nothing of it is left."""
    said = (TESTS / path).read_text(encoding="utf-8")
    words = {node.value for node in ast.walk(ast.parse(said)) if isinstance(node, ast.Constant)}

    assert anchor in words
    assert said.count("RunbookOperator(") == said.count(".assert_complete()") > 0


def test_every_place_that_the_page_sends_one_to_is_there() -> None:
    """Its own anchors."""
    text = PAGE.read_text(encoding="utf-8")
    named = {part.split(")")[0] for part in text.split("](#")[1:]}

    assert named <= set(sections())


LINES = [
    (("a …", "b 2"), "a 1\n b   2\n", None),
    (("b", "a"), "a\nb\n", "a"),
    (("a",), "ab\n", "a"),
    (("a",), "a\nexit code 3\n", "no exit code 3"),
    (("a", "exit code 3"), "a\nexit code 3\n", None),
]


@pytest.mark.parametrize(("sees", "said", "missing"), LINES)
def test_what_should_be_seen_is_looked_for_line_by_line_in_its_order(
    sees: tuple[str, ...], said: str, missing: str | None
) -> None:
    """Blanks count as one; what is not told may lie between; an exit code is never passed over."""
    assert missing_line(sees, said) == missing
