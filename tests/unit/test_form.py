"""The code's own form: sizes, docstrings, names, and nothing that nobody uses."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from shared.telemetry import metrics
from shared.telemetry.log import ACTIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "services", "ops", "embedded", "replicate_server", "tools", "benchmarks")
FILE_LINES_MAX = 500
TEST_LINES_MAX = 500
FUNCTION_LINES_MAX = 50
FORBIDDEN = {"utils", "util", "common", "helpers", "models", "core", "manager", "misc"}
ALLOWED = {"services/generator/providers/replicate/models.py"}  # the models of an HTTP API
METRICS = [name for name in vars(metrics) if name.isupper()]


@cache
def text_of(path: Path) -> str:
    """A file, read once."""
    return path.read_text(encoding="utf-8")


def sources() -> list[Path]:
    """Every Python file of the product."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def suites() -> list[Path]:
    """Every Python file of the tests."""
    return sorted((ROOT / "tests").rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions in a file, with their lines."""
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None, "parsed from text"
            yield node.name, node.end_lineno - node.lineno + 1


def short(path: Path) -> str:
    """A path as messages and test names show it."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=short)
def test_a_source_file_can_be_read_in_one_sitting(path: Path) -> None:
    """At most 500 lines, functions of at most 50, and it says what it is for."""
    assert len(text_of(path).splitlines()) <= FILE_LINES_MAX
    assert [name for name, lines in functions(path) if lines > FUNCTION_LINES_MAX] == []
    assert ast.get_docstring(ast.parse(text_of(path)))


@pytest.mark.parametrize("path", suites(), ids=short)
def test_a_test_file_stays_small_and_says_what_it_is_about(path: Path) -> None:
    """At most 500 lines; beyond that it is two."""
    assert len(text_of(path).splitlines()) <= TEST_LINES_MAX
    assert ast.get_docstring(ast.parse(text_of(path)))


@pytest.mark.parametrize("path", sources() + suites(), ids=short)
def test_no_module_is_named_after_nothing(path: Path) -> None:
    """What fits everywhere belongs nowhere."""
    if short(path) in ALLOWED:
        return
    assert FORBIDDEN.isdisjoint({path.stem, *path.relative_to(ROOT).parent.parts})


def test_the_architecture_page_names_every_folder() -> None:
    """Whoever adds one draws it on the map."""
    told = text_of(ROOT / "ARCHITECTURE.md")
    ignored = {"out", "dist", "build"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    packages = {short(path.parent) for path in sources() if path.name == "__init__.py"}

    assert [f for f in sorted(folders - ignored | packages) if f"{f}/" not in told] == []


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_measured_somewhere(name: str) -> None:
    """A dashboard must not wait for what nobody counts."""
    catalogue = ROOT / "shared" / "telemetry" / "metrics.py"
    word = re.compile(rf"\b{name}\b")

    assert any(word.search(text_of(path)) for path in sources() if path != catalogue)


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_every_log_action_is_said_somewhere(action: str) -> None:
    """The catalogue holds what can be searched for, no more."""
    catalogue = ROOT / "shared" / "telemetry" / "log.py"

    assert any(f'"{action}"' in text_of(path) for path in sources() if path != catalogue)


def test_every_action_that_is_said_is_in_the_catalogue() -> None:
    """A misspelt one would never be found."""
    said = re.compile(r'action="([a-z_]+\.[a-z_]+)"')
    found = {action for path in sources() for action in said.findall(text_of(path))}

    assert found - ACTIONS == set()


def pure_modules() -> tuple[str, ...]:
    """Return the modules that import-linter keeps free of I/O."""
    linter = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    [contract] = [one for one in linter["contracts"] if one["name"] == "the domain is pure"]
    return tuple(contract["source_modules"])


def test_every_module_that_claims_to_be_pure_is_checked_by_import_linter() -> None:
    """A docstring with "Pure" is a claim; the linter's list proves it."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if re.search(r"\bPure\b", ast.get_docstring(ast.parse(text_of(path))) or "")
    }
    pure = pure_modules()

    assert [
        name for name in sorted(names) if not any(f"{name}.".startswith(f"{p}.") for p in pure)
    ] == []
