"""Runs a service with a wall clock that a test can shift.

    python -m tests.faults.harness.clock_service generator

The service's wall clock is shifted by the seconds in a file, from the moment they are written.
Deadlines use the monotonic clock, which is not shifted.

I/O: the file that `SEGUE_TEST_CLOCK` names.
"""

import os
import runpy
import sys
from datetime import datetime, timedelta
from pathlib import Path

from shared.clock import SystemClock

VARIABLE = "SEGUE_TEST_CLOCK"


def set_clock(path: Path, seconds: float) -> None:
    """Shift the clock of every service that follows `path`."""
    half = path.with_suffix(".half")
    half.write_text(str(seconds))
    half.rename(path)


def follow(path: Path) -> None:
    """Shift this process's wall clock by the seconds in `path`."""
    unshifted = SystemClock.now

    def now(clock: SystemClock) -> datetime:
        return unshifted(clock) + timedelta(seconds=float(path.read_text()))

    SystemClock.now = now  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    follow(Path(os.environ[VARIABLE]))  # noqa: TID251 - of the launcher
    runpy.run_module(f"services.{sys.argv[1]}", run_name="__main__")
