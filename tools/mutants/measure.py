"""Reports the mutants that the unit tests do not detect (`make mutants`).

A mutant is one small change of the code: another comparison, arithmetic or boolean operator, an
added or removed `not`, another return value. A test suite that passes with it left that code
untested. The score is the share of detected mutants, without those that `equivalent.toml` lists
because they behave like the original.

I/O: copies the checkout to `out/mutants`, runs mutmut there. Exit code 1: the score is below 90 %,
a listed mutant is detected, or mutmut failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.mutants.modules import MODULES, TESTS, TESTS_LEFT_OUT

SCORE_MIN = 0.9
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
_ROOT = Path(__file__).resolve().parents[2]
_COPIED = (
    "shared", "services", "ops", "embedded", "replicate_server", "tools", "benchmarks",
    "tests", "docs", "deploy",
)  # fmt: skip
_DETECTED = {"killed", "timeout", "segfault"}  # a mutant that never ends is detected


def equivalent_mutants() -> list[dict[str, str]]:
    """Return the entries of `equivalent.toml`."""
    entries: list[dict[str, str]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    return entries


def is_equivalent(mutant: dict[str, Any], entries: Sequence[dict[str, str]]) -> bool:
    """Return True if an entry describes this change of this function."""
    keys = ("module", "function", "before", "after")
    return any(all(mutant[key] == entry[key] for key in keys) for entry in entries)


def make_scratch(scratch: Path) -> None:
    """Copy the checkout to `scratch` and configure mutmut there."""
    shutil.rmtree(scratch, ignore_errors=True)
    for name in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / name, scratch / name, ignore=ignored)
    config = {
        "source_paths": list(MODULES),
        "also_copy": list(_COPIED),
        "pytest_add_cli_args": [
            "--hypothesis-seed=0",
            "-p", "no:cacheprovider",
            *(f"--deselect={test}" for test in TESTS_LEFT_OUT),
        ],
        "pytest_add_cli_args_test_selection": list(TESTS),
        "timeout_multiplier": 10.0,
        "timeout_constant": 2.0,
        "use_git_change_detection": False,
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items()]
    project = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = "\n".join(["", "[tool.mutmut]", *lines, ""])
    (scratch / "pyproject.toml").write_text(project + section, encoding="utf-8")


def run_mutants(scratch: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `tools/mutants/__main__.py` in `scratch`; return its results.

    Raises:
        SystemExit: mutmut failed; the log's end is printed.
    """
    log = scratch / "mutmut.log"
    command = [sys.executable, "-m", "tools.mutants", *arguments]
    with log.open("wb") as output:
        run = subprocess.run(  # noqa: S603 - our own module
            command, cwd=scratch, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if run.returncode != 0:
        print("\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        raise SystemExit(f"mutmut failed with exit code {run.returncode}; its log: {log}")
    results: dict[str, Any] = json.loads((scratch / "results.json").read_text(encoding="utf-8"))
    return results


def report(results: dict[str, Any], entries: Sequence[dict[str, str]]) -> bool:
    """Print survivors and score; return True if the score is high enough."""
    mutants = results["mutants"]
    survivors = [mutant for mutant in mutants if mutant["status"] not in _DETECTED]
    equivalent = [mutant for mutant in survivors if is_equivalent(mutant, entries)]
    alive = [mutant for mutant in survivors if mutant not in equivalent]
    wrong = [m for m in mutants if m["status"] in _DETECTED and is_equivalent(m, entries)]
    for mutant in alive:
        print(f"{mutant['module']}:{mutant['line']} {mutant['function']} ({mutant['status']})")
        print(f"  - {mutant['before']}\n  + {mutant['after']}")
    for mutant in wrong:
        print(f"Listed as equivalent but detected: {mutant['module']}:{mutant['line']}")
        print(f"  + {mutant['after']}")
    counted = len(mutants) - len(equivalent)
    killed = len(mutants) - len(survivors)
    score = killed / counted if counted else 1.0
    print(
        f"{killed} of {counted} mutants detected: {score:.1%} (at least {SCORE_MIN:.0%} required). "
        f"Drawn: {len(mutants)} of {results['total']}; equivalent: {len(equivalent)}."
    )
    return score >= SCORE_MIN and not wrong


def main() -> int:
    """Run the mutants and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools.mutants.measure", description="Run mutants of the core."
    )
    parser.add_argument("--sample", default="200", help="number of mutants, or all")
    parser.add_argument("--seed", default="1", help="the same draw for the same seed")
    parser.add_argument("--jobs", default="2", help="processes at the same time")
    parser.add_argument("modules", nargs="*", help="only these modules")
    options = parser.parse_args()
    if unknown := sorted(set(options.modules) - set(MODULES)):
        parser.error(f"not in tools/mutants/modules.py: {', '.join(unknown)}")
    scratch = _ROOT / "out" / "mutants"
    make_scratch(scratch)
    print(f"Running {options.sample} mutants, seed {options.seed}; log: {scratch / 'mutmut.log'}")
    flags = ["--sample", options.sample, "--seed", options.seed, "--jobs", options.jobs]
    results = run_mutants(scratch, [*flags, *options.modules])
    return 0 if report(results, equivalent_mutants()) else 1


if __name__ == "__main__":
    sys.exit(main())
