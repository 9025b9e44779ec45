"""Lengths: how much of a fault a test makes: a little in `make test`, a lot in `make chaos`.

I/O: the environment, read once, when this is imported.
"""

import os
import secrets
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("SEGUE_CHAOS") == "long"  # noqa: TID251 - the suite's own setting
SEED = int(os.environ.get("SEGUE_CHAOS_SEED") or secrets.randbelow(10**6))  # noqa: TID251


def long_or(*, long: T, short: T) -> T:
    """What this run asks for."""
    return long if LONG else short
