"""Tools: programs of others that some tests ask, and whether this machine has them.

`SEGUE_REQUIRE=promtool,npm` makes a missing one a failure; else its tests are skipped with a word.
"""

import shutil
from pathlib import Path

from tests.support.servers import NoServerError

PROMTOOL = "Debian has it in the package prometheus, others in Prometheus' own archive"
NPM = "it comes with Node.js; Debian has it in the package npm"


def promtool() -> Path | NoServerError:
    """Prometheus' checker of rules and scrapes."""
    return _found("promtool", PROMTOOL)


def npm() -> Path | NoServerError:
    """What fetches Grafana's types, and the compiler for them."""
    return _found("npm", NPM)


def _found(name: str, way_out: str) -> Path | NoServerError:
    place = shutil.which(name)
    return NoServerError(f"no {name}", [way_out]) if place is None else Path(place)
