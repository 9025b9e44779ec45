"""A service that may die at a named step, for suites that start hundreds of them.

What runs is `dying_service`, so a service that dies at a step and one that does not are the same
program; `python -m tests.faults.harness.dying_service` starts it by hand.

I/O: processes.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from tests.support.processes import Service, eventually

_LOOK_S = 0.05


class Forked(Service):
    """A service that dies at a step, or runs until it is stopped."""

    def __init__(
        self, name: str, environment: Mapping[str, str], *, arguments: Sequence[str], log: Path
    ) -> None:
        super().__init__(name, environment, log=log)
        self._arguments = arguments

    @override
    def command(self) -> Sequence[str]:
        return ("tests.faults.harness.dying_service", *self._arguments)

    async def ready(self, *, within_s: float = 60) -> None:
        """Wait until it has its partitions."""

        async def look() -> bool | None:
            return bool(self.count_logged("partitions.assigned")) or None

        await eventually(look, within_s=within_s, what=f"partitions of {self.log}")

    async def ended(self, *, within_s: float) -> int:
        """Wait until it has ended by itself; minus the signal's number, if one did it."""
        async with asyncio.timeout(within_s):
            return await self.wait()

    async def frozen(self, *, within_s: float) -> None:
        """Wait until it has stopped itself."""
        async with asyncio.timeout(within_s):
            while not _is_stopped(self.pid):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(_LOOK_S)


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"
    return False
