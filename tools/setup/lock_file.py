"""Divides requirements.lock into a section for running Segue and one for developing it.

    python -m tools.setup.lock_file < PINS     called by `make lock`; PINS: the runtime resolution

uv resolves all extras together, so a package has one version in both sections. It resolves the
runtime extras again, constrained to these versions: the names in that result are the first section.

I/O: reads standard input, rewrites requirements.lock.
"""

import re
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
RUNTIME = "# Runtime: what `make demo` and `segue` install (`make setup`). Written by `make lock`."
DEVELOPMENT = "# Development: what `make check` and `make test` add (`make develop`)."
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==", re.MULTILINE)


def main() -> int:
    """Divide the lock file; return the exit code."""
    LOCK.write_text(divided(LOCK.read_text(encoding="utf-8"), pins=sys.stdin.read()), "utf-8")
    return 0


def divided(lock: str, *, pins: str) -> str:
    """Return `lock` with the packages that `pins` names in the first section."""
    runtime = set(_PIN.findall(pins))
    text = "".join(line for line in lock.splitlines(keepends=True) if not line.startswith("#"))
    starts = list(_PIN.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    entries = [
        (one.group(1), text[one.start() : end]) for one, end in zip(starts, ends, strict=True)
    ]
    if missing := runtime - {name for name, _ in entries}:
        raise SystemExit(f"make lock: not in requirements.lock: {', '.join(sorted(missing))}")
    first = "".join(entry for name, entry in entries if name in runtime)
    second = "".join(entry for name, entry in entries if name not in runtime)
    return f"{RUNTIME}\n{first}{DEVELOPMENT}\n{second}"


def section(lock: str, *, development: bool) -> str:
    """Return the requirements to install: the runtime's, or all of them."""
    runtime, marker, _ = lock.partition(f"{DEVELOPMENT}\n")
    if not marker:
        raise SystemExit(
            f"requirements.lock has no line {DEVELOPMENT!r}; restore the file from Git, or run "
            '"make lock"'
        )
    return lock if development else runtime


if __name__ == "__main__":
    sys.exit(main())
