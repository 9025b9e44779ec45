"""SampledService: a service that writes down, every so often, what it holds. For the soak.

    python -m tests.faults.harness.sampled_service generator --to samples.jsonl

A task inside the service takes the samples: asyncio tasks cannot be counted from outside.

I/O: `/proc/self`, and the file.
"""

import argparse
import asyncio
import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from shared.service_process import main as start
from tests.faults.harness.dying_service import SETTINGS
from tests.faults.harness.history import append
from tests.support.processes import Service

EVERY_S = 1.0
_MIB = 2**20
_SELF = Path("/proc/self")


class SampledService(Service):
    """The service as a process, and its samples."""

    def __init__(self, name: str, environment: Mapping[str, str], *, folder: Path) -> None:
        super().__init__(name, environment, log=folder / f"{name}.log")
        self._samples = folder / f"{name}.jsonl"

    @override
    def command(self) -> Sequence[str]:
        return ("tests.faults.harness.sampled_service", self.name, "--to", str(self._samples))

    def samples(self) -> list[dict[str, float]]:
        """Return the samples in order."""
        return [json.loads(line) for line in self._samples.read_text().splitlines()]


def sample() -> dict[str, float]:
    """Return the resource usage of this process."""
    pages = int((_SELF / "statm").read_text().split()[1])
    return {
        "at_s": time.monotonic(),
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / _MIB,
        "handles": len(list((_SELF / "fd").iterdir())),
        "threads": len(list((_SELF / "task").iterdir())),
        "tasks": len(asyncio.all_tasks()),
    }


async def _sampling(path: Path) -> None:
    while True:
        append(path, **sample())
        await asyncio.sleep(EVERY_S)


def main() -> None:
    """Run the service with sampling."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.harness.sampled_service")
    parser.add_argument("service", choices=sorted(SETTINGS))
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    app = importlib.import_module(f"services.{options.service}.app")
    settings = importlib.import_module(f"services.{options.service}.settings")

    async def run(given: Any, *, stop: asyncio.Event) -> None:
        sampling = asyncio.create_task(_sampling(options.to))
        try:
            await app.run(given, stop=stop)
        finally:
            sampling.cancel()

    start(options.service, getattr(settings, SETTINGS[options.service]).from_environment, run)


if __name__ == "__main__":
    main()
