"""Pick: the part of requirements.lock that one image needs, hashes and all.

    python pick.py > common.txt   what every service needs
    python pick.py generator      what this extra adds to common.txt

The lock says which versions, not who needs whom; pip says that, held to the lock's versions, and
installs nothing. What it names is printed as the lock has it, so that the installation after this
refuses every byte that the lock does not know.

I/O: reads pyproject.toml and requirements.lock here; asks the package index through pip.
"""  # noqa: INP001 - a file of the image's build, no package

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==", re.MULTILINE)
_EXTRAS = re.compile(r"\[[\w,-]+\](?===)")  # constraints must not name any


def main(extra: str | None) -> int:
    """Print the picked lines."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = entries(Path("requirements.lock").read_text(encoding="utf-8"))
    if extra is None:
        needed = closure(project["dependencies"], lock)
    elif extra not in (extras := project["optional-dependencies"]):
        sys.stderr.write(f"pick: no extra {extra}; there is {', '.join(extras)}\n")
        return 2
    else:
        common = entries(Path("common.txt").read_text(encoding="utf-8"))
        needed = closure(extras[extra], lock) - common.keys()
    for name in sorted(needed):
        sys.stdout.write(lock[name])
    return 0


def entries(text: str) -> dict[str, str]:
    """Each package of a lock with its lines: several pins where Pythons differ, with markers."""
    found: dict[str, str] = {}
    starts = list(_PIN.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    for match, end in zip(starts, ends, strict=True):
        name = normal(match.group(1))
        found[name] = found.get(name, "") + text[match.start() : end]
    return found


def closure(requirements: list[str], lock: dict[str, str]) -> set[str]:
    """The packages that `requirements` bring in on this machine, all of them in `lock`."""
    if not requirements:
        return set()
    pins = [_EXTRAS.sub("", line.rstrip("\\ ")) for lines in lock.values() for line in _pins(lines)]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        ask = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        ask += ["--only-binary=:all:", "--report", str(report), "-c", str(constraints)]
        subprocess.run([*ask, *requirements], check=True, stdout=sys.stderr)  # noqa: S603 - our list
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {normal(one["metadata"]["name"]) for one in found}
    if missing := names - lock.keys():
        raise SystemExit(f"pick: requirements.lock lacks {sorted(missing)}: run `make lock`")
    return names


def _pins(lines: str) -> list[str]:
    return [line for line in lines.splitlines() if _PIN.match(line)]


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
