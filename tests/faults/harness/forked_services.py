"""Forked: services that start in a tenth of a second, for suites that start hundreds of them.

A server that has imported every service forks each one off (`multiprocessing`'s own fork
server). What runs is `dying.main`, so a service that dies at a step and one that does not are
the same program; `python -m tests.faults.harness.dying_service` is the door for people.

I/O: processes.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from typing_extensions import override

from tests.faults.harness import dying_service
from tests.support.parent_death import end_with_parent
from tests.support.processes import Process, Service, eventually

_LOOK_S = 0.05
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        __name__,
        *(
            f"services.{name}.{part}"
            for name in dying_service.SETTINGS
            for part in ("app", "settings")
        ),
    ]
)


class Forked(Service):
    """A service in a process of its own, forked instead of started."""

    def __init__(
        self, name: str, environment: Mapping[str, str], *, arguments: Sequence[str], log: Path
    ) -> None:
        super().__init__(name, environment, log=log)
        self._arguments = arguments

    @override
    async def start(self) -> None:
        self.log.touch()
        process = _context.Process(
            target=_run, args=(self._arguments, self.environment, self.log), daemon=True
        )
        process.start()
        self._process = _Watched(process)

    async def ready(self, *, within_s: float = 60) -> None:
        """Wait until it has its partitions."""

        async def look() -> bool | None:
            return bool(self.said("partitions.assigned")) or None

        await eventually(look, within_s=within_s, what=f"partitions of {self.log}")

    async def ended(self, *, within_s: float) -> int:
        """Wait until it has ended by itself; minus the signal's number, if one did it."""
        async with asyncio.timeout(within_s):
            return await self._running.wait()

    async def frozen(self, *, within_s: float) -> None:
        """Wait until it has stopped itself."""
        async with asyncio.timeout(within_s):
            while not _is_stopped(self.pid):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(_LOOK_S)

    @property
    def pid(self) -> int:
        """The process."""
        return self._running.pid

    @property
    def _running(self) -> "_Watched":
        assert isinstance(self._process, _Watched), "start() comes first"
        return self._process


class _Watched(Process):
    """A forked process, as asyncio would show it."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None, "it was started"
        self._process = process
        self.pid = process.pid

    @override
    def send_signal(self, signal: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, signal)

    @override
    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @override
    async def wait(self) -> int:
        while self._process.is_alive():  # noqa: ASYNC110 - it is no child of asyncio's
            await asyncio.sleep(_LOOK_S)
        code = self._process.exitcode
        assert code is not None, "it is not alive"
        return code


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"
    return False


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """The forked process: its own session, environment and log, then the service."""
    os.setsid()
    end_with_parent()
    os.environ.clear()  # noqa: TID251 - this is where a service's environment is made
    os.environ.update(environment)  # noqa: TID251 - as above
    warnings.simplefilter("ignore")
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    dying_service.main(arguments)
