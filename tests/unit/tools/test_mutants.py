"""Checks the report of `make mutants` and its list of equivalent mutants."""

from pathlib import Path
from typing import Any

import pytest

from tools.mutants.measure import equivalent_mutants, report
from tools.mutants.modules import MODULES, TESTS

ROOT = Path(__file__).resolve().parents[3]


def mutants(*statuses: str) -> dict[str, Any]:
    """Return results with one mutant per status."""
    return {
        "total": 100,
        "mutants": [
            {
                "module": "shared/a.py",
                "function": "f",
                "line": number,
                "before": f"return {number}",
                "after": "return None",
                "status": status,
            }
            for number, status in enumerate(statuses)
        ],
    }


def test_every_module_and_test_of_the_lists_exists() -> None:
    """A renamed file must be renamed in the lists too."""
    assert [name for name in (*MODULES, *TESTS) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("entry", equivalent_mutants(), ids=lambda e: f"{e['module']} {e['after']}")
def test_an_equivalent_mutant_describes_existing_code(entry: dict[str, str]) -> None:
    """An entry whose code was changed must be removed or written again, with its reason."""
    source = " ".join((ROOT / entry["module"]).read_text(encoding="utf-8").split())

    assert entry["before"] in source
    assert entry["before"] != entry["after"]
    assert len(entry["reason"]) > 20


def test_a_score_of_ninety_percent_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """A mutant that never ends counts as detected; a survivor is printed with its place."""
    assert report(mutants(*["killed"] * 8, "timeout", "survived"), [])

    printed = capsys.readouterr().out
    assert "shared/a.py:9 f (survived)\n  - return 9\n  + return None\n" in printed
    assert "9 of 10 mutants detected: 90.0%" in printed


def test_a_lower_score_fails() -> None:
    """A mutant that no test reaches counts as a survivor."""
    assert not report(mutants(*["killed"] * 8, "no tests", "survived"), [])


def test_an_equivalent_mutant_does_not_count() -> None:
    """The score is of the others; a detected one is not equivalent, and fails."""
    entry = {"module": "shared/a.py", "function": "f", "after": "return None", "reason": "same"}

    assert report(mutants("survived", "killed"), [{**entry, "before": "return 0"}])
    assert not report(mutants("killed", "killed"), [{**entry, "before": "return 0"}])
