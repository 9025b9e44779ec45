"""Tests of the extras: an image installs exactly what its code imports.

The test environment has all packages, so each test hides those that the image lacks.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
ENTRIES = {
    "api": "services.api.app",
    "generator": "services.generator.app",
    "merger": "services.merger.app",
    "muxer": "services.muxer.app",
    "ops": "ops.__main__",
}
LAZY = {"ops": "shared.kafka.alter_configs"}  # imported when it is used
# Hides modules as if they were not installed; optional imports then continue without them.
PROGRAM = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

module, *absent = sys.argv[1:]
sys.meta_path.insert(0, Absent())
importlib.import_module(module)
"""


@pytest.mark.parametrize(("extra", "module"), [*ENTRIES.items(), *LAZY.items()])
def test_an_image_installs_what_its_code_imports(extra: str, module: str) -> None:
    """The code imports with the project's dependencies and its extra's only."""
    result = import_without(
        module, without=modules_not_in(dependencies_of("segue", frozenset({extra})))
    )
    assert result.returncode == 0, result.stderr


def test_a_missing_package_fails_the_import() -> None:
    """The merger's image cannot run the api."""
    result = import_without(
        ENTRIES["api"], without=modules_not_in(dependencies_of("segue", frozenset({"merger"})))
    )
    assert "ModuleNotFoundError" in result.stderr


def import_without(module: str, *, without: set[str]) -> subprocess.CompletedProcess[str]:
    """Import `module` in a new interpreter in which the modules `without` do not exist."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *sorted(without)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def modules_not_in(installed: set[str]) -> set[str]:
    """Return the top-level modules that no distribution of `installed` provides."""
    return {
        module
        for module, owners in packages_distributions().items()
        if not installed & {str(canonicalize_name(owner)) for owner in owners}
    }


def dependencies_of(name: str, extras: frozenset[str]) -> set[str]:
    """Return the distributions that `name` needs with these extras, itself included."""
    names: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    remaining = [(str(canonicalize_name(name)), extras)]
    while remaining:
        current, its_extras = remaining.pop()
        if (current, its_extras) in seen:
            continue
        seen.add((current, its_extras))
        names.add(current)
        for text in _requirements(current):
            requirement = Requirement(text)
            active_extras = its_extras or frozenset({""})
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": e}) for e in active_extras
            ):
                remaining.append(
                    (str(canonicalize_name(requirement.name)), frozenset(requirement.extras))
                )
    return names


def _requirements(name: str) -> list[str]:
    """Return the requirements of a distribution; those of segue from pyproject.toml."""
    if name != "segue":
        return distribution(name).requires or []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    optional = [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]
    return [*project["dependencies"], *optional]
