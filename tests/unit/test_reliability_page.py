"""Compares the commands of docs/reliability.md with the tests that they select."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r'make test T=("[^"]+"|[^\s`]+)', PAGE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_selects_a_test_in_each_of_its_files(command: str) -> None:
    """A renamed file or test would leave a figure without the command that reproduces it."""
    words = command.strip('"').split()
    keyword = words[words.index("-k") + 1] if "-k" in words else ""
    paths = [ROOT / word for word in words if word.startswith("tests/")]

    assert paths
    for path in paths:
        files = path.rglob("test_*.py") if path.is_dir() else [path]
        names = [f"{file.stem} {name}" for file in files for name in _tests(file)]
        assert [name for name in names if keyword in name], f"{path.name}: no test {keyword}"


def _tests(file: Path) -> list[str]:
    pattern = r"^(?:(?:async )?def |class )?([tT]est\w+)"
    return re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
