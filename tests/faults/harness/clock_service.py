"""Jumping: a service whose machine's clock can be set, while time goes on as it does.

    python -m tests.faults.harness.clock_service generator

It is the service itself; what its clock tells is off by the seconds that a file says, from the
moment in which they are written there. Deadlines are monotonic and know nothing of it.

I/O: the file that `SEGUE_TEST_CLOCK` names.
"""

import os
import runpy
import sys
from datetime import datetime, timedelta
from pathlib import Path

from shared.clock import SystemClock

VARIABLE = "SEGUE_TEST_CLOCK"


def set_clock(place: Path, seconds: float) -> None:
    """Every clock that looks there is off by so much from now on."""
    half = place.with_suffix(".half")
    half.write_text(str(seconds))
    half.rename(place)


def follow(place: Path) -> None:
    """This process's clock looks there."""
    told = SystemClock.now

    def now(clock: SystemClock) -> datetime:
        return told(clock) + timedelta(seconds=float(place.read_text()))

    SystemClock.now = now  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    follow(Path(os.environ[VARIABLE]))  # noqa: TID251 - a launcher's own
    runpy.run_module(f"services.{sys.argv[1]}", run_name="__main__")
