"""Extras: what a service's code imports is what its image installs, and nothing else.

Everything is installed here, so a package that only an image lacks shows itself nowhere but there.
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
# As if it were not installed: optional imports go without it, the others say so.
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
    """The service's code is read with the project's own needs and its extra's, and no others."""
    ended = imported(module, without=absent(needs("segue", frozenset({extra}))))
    assert ended.returncode == 0, ended.stderr


def test_a_package_that_an_image_lacks_is_missed() -> None:
    """The test above can fail: the merger's image cannot run the api."""
    ended = imported(ENTRIES["api"], without=absent(needs("segue", frozenset({"merger"}))))
    assert "ModuleNotFoundError" in ended.stderr


def imported(module: str, *, without: set[str]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that reads `module` where the modules `without` do not exist."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *sorted(without)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def absent(installed: set[str]) -> set[str]:
    """The top-level modules that no distribution of `installed` brings."""
    return {
        module
        for module, owners in packages_distributions().items()
        if not installed & {str(canonicalize_name(one)) for one in owners}
    }


def needs(name: str, extras: frozenset[str]) -> set[str]:
    """The distributions that `name` brings in with these extras, itself among them."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(str(canonicalize_name(name)), extras)]
    while left:
        one, its_extras = left.pop()
        if (one, its_extras) in seen:
            continue
        seen.add((one, its_extras))
        found.add(one)
        for line in _requirements(one):
            wanted = Requirement(line)
            asked = its_extras or frozenset({""})
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in asked):
                left.append((str(canonicalize_name(wanted.name)), frozenset(wanted.extras)))
    return found


def _requirements(name: str) -> list[str]:
    """Return the requirements of a distribution; ours as pyproject.toml has them now."""
    if name != "segue":
        return distribution(name).requires or []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    ours = [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]
    return [*project["dependencies"], *ours]
