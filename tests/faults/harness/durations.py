"""How many faults a test injects: few in `make test`, many in `make chaos`.

I/O: the environment, read at import.
"""

import os
import secrets
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("SEGUE_CHAOS") == "long"  # noqa: TID251 - a setting of the tests
SEED = int(os.environ.get("SEGUE_CHAOS_SEED") or secrets.randbelow(10**6))  # noqa: TID251


def long_or(*, long: T, short: T) -> T:
    """Return `long` in `make chaos`, else `short`."""
    return long if LONG else short
