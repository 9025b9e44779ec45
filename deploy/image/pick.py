"""Print the part of requirements.lock that one image needs, with its hashes.

    python pick.py > common.txt   the packages of every service
    python pick.py generator      the packages that this extra adds to common.txt

The lock has the versions but not the dependencies; pip resolves those, constrained to the lock's
versions, and installs nothing. The packages are printed as the lock has them, so the installation
rejects every file whose hash is not in the lock.

I/O: reads pyproject.toml and requirements.lock here; queries the package index through pip.
"""  # noqa: INP001 - a script of the image build, not a package

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==", re.MULTILINE)
_EXTRAS = re.compile(r"\[[\w,-]+\](?===)")  # constraints must not have extras


def main(extra: str | None) -> int:
    """Print the lines; return the exit code."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = entries(Path("requirements.lock").read_text(encoding="utf-8"))
    if extra is None:
        needed = closure(project["dependencies"], lock)
    elif extra not in (extras := project["optional-dependencies"]):
        sys.stderr.write(f"pick: unknown extra {extra}; one of: {', '.join(extras)}\n")
        return 2
    else:
        common = entries(Path("common.txt").read_text(encoding="utf-8"))
        needed = closure(extras[extra], lock) - common.keys()
    for name in sorted(needed):
        sys.stdout.write(lock[name])
    return 0


def entries(text: str) -> dict[str, str]:
    """Return the lines of each package; it may have a pin per Python version."""
    packages: dict[str, str] = {}
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)  # the headings of the sections
    starts = list(_PIN.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    for match, end in zip(starts, ends, strict=True):
        name = normal(match.group(1))
        packages[name] = packages.get(name, "") + text[match.start() : end]
    return packages


def closure(requirements: list[str], lock: dict[str, str]) -> set[str]:
    """Return the packages that `requirements` install on this machine; all are in `lock`."""
    if not requirements:
        return set()
    pins = [_EXTRAS.sub("", line.rstrip("\\ ")) for lines in lock.values() for line in _pins(lines)]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
        ]
        command += ["--only-binary=:all:", "--report", str(report), "-c", str(constraints)]
        subprocess.run([*command, *requirements], check=True, stdout=sys.stderr)  # noqa: S603 - our own arguments
        packages = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {normal(package["metadata"]["name"]) for package in packages}
    if missing := names - lock.keys():
        raise SystemExit(f"pick: not in requirements.lock: {sorted(missing)}; run `make lock`")
    return names


def _pins(lines: str) -> list[str]:
    return [line for line in lines.splitlines() if _PIN.match(line)]


def normal(name: str) -> str:
    """Return a package name as indexes normalise it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
