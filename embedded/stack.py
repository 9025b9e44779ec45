"""Stack: the whole system on this machine, started in order, watched, stopped in reverse.

The servers are of the kind that was asked for (`servers.py`); the four services are the real
ones, as tasks of one loop, each kept running by `supervise.py`. The embedded broker remembers
nothing, so the api publishes unfinished work again at the next start.

Units: seconds. I/O: everything; the steps are numbered where they are taken.
"""

import asyncio
import importlib
import os
import socket
import warnings
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from embedded.data_dir import claimed, segment_keys
from embedded.servers import Addresses, servers_of
from embedded.servers.process import tail
from embedded.settings import StackSettings
from embedded.supervisor import Service, keep_running
from shared.clock import Clock, SystemClock
from shared.errors import SegueError, SettingsError
from shared.http.server import free_ports
from shared.local_stack import ClientLock, RunningStack, remove_stack_files, write_stack_files
from shared.storage import StandInWarning
from shared.telemetry.log import logger_of

HOST = "127.0.0.1"
READY_S = 60.0  # 3 s on an idle machine with two cores
_STAGES_STOP_S = 5.0  # drain, commit, leave the group
_API_STOP_S = 2.0
_CANCELLED_S = 1.0  # what a cancelled service may still take
_POLL_S = 0.05
_PROBE_S = 2.0
_WATCH_S = 1.0


class Stack:
    """The parts of one stack on `folder`, which is claimed for it."""

    def __init__(self, settings: StackSettings, folder: Path, *, port: int, clock: Clock) -> None:
        self.url = f"http://{HOST}:{port}"
        self._settings = settings
        self._folder = folder
        self._port = port
        self._clock = clock
        self._servers = servers_of(settings.kind, folder)
        self._addresses: asyncio.Future[Addresses] | None = None
        self._services: list[Service] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._standins = AsyncExitStack()

    async def start(self) -> None:
        """Return when every part works.

        Raises:
            SegueError: which part does not, and why.
        """
        # 1. the servers, and the imports in a thread: side by side
        self._addresses = asyncio.ensure_future(asyncio.to_thread(self._servers.start))
        importing = asyncio.ensure_future(
            asyncio.to_thread(importlib.import_module, "embedded.services")
        )
        line, addresses = await asyncio.gather(importing, asyncio.shield(self._addresses))
        # 2. the services, side by side too: a new consumer group waits for its members
        self._services = line.services(
            line.Parts(
                addresses=addresses,
                segment_keys=segment_keys(self._folder),
                port=self._port,
                provider=self._settings.provider,
                fake_replicate=await self._fake_replicate(),
            )
        )
        log = logger_of("stack")
        for service in self._services:
            keeping = keep_running(service, clock=self._clock, log=log)
            self._tasks.append(asyncio.create_task(keeping, name=service.name))
        # 3. it works when each says so, and the api of all
        try:
            async with asyncio.timeout(READY_S):
                await self._beside_services(self._until_ready())
        except TimeoutError as error:
            late = [service.name for service in self._services if not service.ready.is_set()]
            names = ", ".join(late) or "the api's readyz"
            raise SegueError(f"not ready within {READY_S:g} s: {names}") from error

    async def _fake_replicate(self) -> tuple[str, str] | None:
        """Start the stand-in of Replicate if it is wanted; where it is, and its key."""
        if self._settings.provider != "fake-replicate":
            return None
        replicate = await asyncio.to_thread(importlib.import_module, "replicate_server")
        fake = await self._standins.enter_async_context(replicate.ReplicateEmulator())
        warnings.warn(StandInWarning(f"its ledger is at {fake.ledger_url}"), stacklevel=2)
        return fake.base_url, fake.token

    @property
    def environment(self) -> Mapping[str, str]:
        """Where its servers are, as variables for whoever works with them from outside."""
        assert self._addresses is not None, "it was started"
        return self._addresses.result().environment()

    async def watch(self) -> None:
        """Return never.

        Raises:
            SegueError: a service was given up, or a server is gone.
        """
        while True:
            await self._beside_services(self._clock.sleep(_WATCH_S))
            if (server := self._servers.ended()) is not None:
                raise SegueError(f"{server.name} ended by itself\n{tail(server.log)}".rstrip())

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Take everything down in reverse; `hurry` ends the waiting. Whether nothing hangs."""
        stages, edge = self._tasks[:-1], self._tasks[-1:]
        # 1. the stages finish or let go of what they do, commit, and leave their groups
        clean = await self._end(stages, within_s=_STAGES_STOP_S, hurry=hurry)
        # 2. the api goes after them: it has then seen what they said last
        clean = await self._end(edge, within_s=_API_STOP_S, hurry=hurry) and clean
        await self._standins.aclose()
        # 3. the servers write everything down; if they were still starting, after that
        if self._addresses is not None:
            await asyncio.wait([self._addresses])
        await asyncio.to_thread(self._servers.stop)
        return clean

    async def _beside_services(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; a service that ends meanwhile ends it."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for service in self._tasks:
                if service.done():
                    service.result()
            await task
        finally:
            task.cancel()

    async def _until_ready(self) -> None:
        for service in self._services:
            await service.ready.wait()
        async with httpx.AsyncClient(timeout=_PROBE_S, trust_env=False) as client:
            while not await _says_ready(client, f"{self.url}/readyz"):
                await self._clock.sleep(_POLL_S)

    async def _end(
        self, tasks: list[asyncio.Task[None]], *, within_s: float, hurry: asyncio.Event
    ) -> bool:
        """Stop these services, by force after `within_s` or at `hurry`; whether they ended."""
        if not tasks:
            return True
        names = {task.get_name() for task in tasks}
        for service in self._services:
            if service.name in names:
                service.stop.set()
        ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=within_s))
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait([ended, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for task in tasks:
            task.cancel()  # nothing happens to those that ended
        _, hanging = await asyncio.wait(tasks, timeout=_CANCELLED_S)
        return not hanging


async def run(
    settings: StackSettings,
    *,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    ready: Callable[[RunningStack], None],
) -> bool:
    """Run a stack until `stop`, tell `ready` where it answers; whether nothing hangs at the end.

    Raises:
        SegueError: it could not start, or had to stop.
    """
    with claimed(settings.home.folder) as folder:
        remove_stack_files(folder)  # of one that lost its power
        port = settings.port or free_ports(1)[0]
        _check_port(port)
        stack = Stack(settings, folder, port=port, clock=SystemClock())
        stopped = asyncio.ensure_future(stop.wait())
        working = asyncio.ensure_future(_work(stack, folder, settings.provider, ready))
        try:
            await asyncio.wait([stopped, working], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            remove_stack_files(folder)
            for task in (stopped, working):
                task.cancel()
            await asyncio.wait([stopped, working])
            clean = await stack.stop(hurry)
        return clean


async def stop_when_unused(folder: Path, stop: asyncio.Event) -> None:
    """Set `stop` once no client holds the lock of `folder` any more."""
    lock = ClientLock(folder)
    while not lock.try_lock_exclusive():  # noqa: ASYNC110 - a file lock wakes nobody
        await asyncio.sleep(_WATCH_S)
    stop.set()  # the lock stays ours until the process ends: no client comes too late


async def _work(
    stack: Stack, folder: Path, provider: str, ready: Callable[[RunningStack], None]
) -> None:
    clock = SystemClock()
    await stack.start()
    found = RunningStack(
        pid=os.getpid(), api_url=stack.url, provider=provider, started_at=clock.now()
    )
    write_stack_files(folder, found, environment=stack.environment)
    ready(found)
    await stack.watch()


async def _says_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(
                "SEGUE_API_PORT",
                f"port {port} of {HOST} cannot be had ({error.strerror}): stop who listens there, "
                "or name another port; 0 takes any free one",
            ) from error
