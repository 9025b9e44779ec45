"""Find the external programs that some tests run.

Tests of a missing program are skipped with the reason; they fail if `SEGUE_REQUIRE` names it.
"""

import shutil
from pathlib import Path

from tests.support.servers import NoServerError

PROMTOOL = "install the Debian package prometheus, or the Prometheus release archive"
NPM = "install Node.js, or the Debian package npm"


def promtool() -> Path | NoServerError:
    """Return the path of Prometheus' checker of rules and metrics."""
    return _find("promtool", PROMTOOL)


def npm() -> Path | NoServerError:
    """Return the path of npm, which installs Grafana's types and their compiler."""
    return _find("npm", NPM)


def _find(name: str, hint: str) -> Path | NoServerError:
    path = shutil.which(name)
    return NoServerError(f"no {name}", [hint]) if path is None else Path(path)
