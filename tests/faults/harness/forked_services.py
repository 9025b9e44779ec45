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

_POLL_S = 0.05


class ForkedService(Service):
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
        """Wait until partitions are assigned."""

        async def poll() -> bool | None:
            return bool(self.count_logged("partitions.assigned")) or None

        await eventually(poll, within_s=within_s, what=f"partitions of {self.log}")

    async def ended(self, *, within_s: float) -> int:
        """Wait for the end; return the exit code, or minus the signal's number."""
        async with asyncio.timeout(within_s):
            return await self.wait()

    async def frozen(self, *, within_s: float) -> None:
        """Wait until the process has stopped itself (SIGSTOP)."""
        async with asyncio.timeout(within_s):
            while not _is_stopped(self.pid):  # noqa: ASYNC110 - no notification exists
                await asyncio.sleep(_POLL_S)


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"
    return False
