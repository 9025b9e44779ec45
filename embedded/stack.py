"""Starts, watches and stops a whole stack on this machine.

The servers are of the chosen kind (`servers/__init__.py`); the four services run as tasks of one
loop, each restarted by `supervisor.py`. The embedded broker keeps nothing on disk, so the api
publishes unfinished work again at the next start.

Units: seconds. I/O: servers, services, files; the steps are numbered in the code.
"""

import asyncio
import errno
import importlib
import os
import shutil
import warnings
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from embedded.data_dir import check_space, locked_data_dir, segment_keys
from embedded.servers import ServerAddresses, servers_of
from embedded.servers.process import tail
from embedded.settings import StackSettings
from embedded.supervisor import Service, keep_running
from shared.clock import Clock, SystemClock
from shared.errors import SegueError, SettingsError
from shared.http.server import bind_socket, free_ports
from shared.local_stack import ClientLock, RunningStack, remove_stack_files, write_stack_files
from shared.storage import StandInWarning
from shared.telemetry.log import logger_of

READY_S = 60.0  # 3 s on an idle machine with two cores
_STAGES_STOP_S = 5.0  # drain, commit, leave the group
_API_STOP_S = 2.0
_CANCEL_S = 1.0  # for a cancelled service
_POLL_S = 0.05
_PROBE_S = 2.0
_WATCH_S = 1.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where clients here connect


class Stack:
    """The servers and services of one stack on `folder`, whose lock is held."""

    def __init__(self, settings: StackSettings, folder: Path, *, port: int, clock: Clock) -> None:
        self.url = api_url(settings.host, port)
        self._settings = settings
        self._folder = folder
        self._port = port
        self._clock = clock
        self._servers = servers_of(settings.kind, folder)
        self._addresses: asyncio.Future[ServerAddresses] | None = None
        self._services: list[Service] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._emulators = AsyncExitStack()

    async def start(self) -> None:
        """Return when every server and service is ready.

        Raises:
            SegueError: one of them did not start; the message names it and the reason.
        """
        # 1. the servers, and the imports in a thread: side by side
        self._addresses = asyncio.ensure_future(asyncio.to_thread(self._servers.start))
        importing = asyncio.ensure_future(
            asyncio.to_thread(importlib.import_module, "embedded.services")
        )
        services, addresses = await asyncio.gather(importing, asyncio.shield(self._addresses))
        # 2. the services, side by side too: a new consumer group waits for its members
        self._services = services.build_services(
            services.StackResources(
                addresses=addresses,
                segment_keys=segment_keys(self._folder),
                host=self._settings.host,
                port=self._port,
                provider=self._settings.provider,
                replicate_emulator=await self._start_emulator(),
            )
        )
        log = logger_of("stack")
        for service in self._services:
            running = keep_running(service, clock=self._clock, log=log)
            self._tasks.append(asyncio.create_task(running, name=service.name))
        # 3. ready: each service by itself, and the api's readyz
        try:
            async with asyncio.timeout(READY_S):
                await self._unless_a_service_ends(self._until_ready())
        except TimeoutError as error:
            late = [service.name for service in self._services if not service.ready.is_set()]
            names = ", ".join(late) or "the api's readyz"
            raise SegueError(f"not ready within {READY_S:g} s: {names}") from error

    async def _start_emulator(self) -> tuple[str, str] | None:
        """Start the Replicate emulator if needed; return its URL and key."""
        if self._settings.provider != "fake-replicate":
            return None
        replicate = await asyncio.to_thread(importlib.import_module, "replicate_server")
        billed = replicate.EmulatorSettings(
            hardware_s_per_s=replicate.HARDWARE_S_PER_S,
            price_usd_per_s=self._settings.replicate.usd_per_s,
        )
        emulator = await self._emulators.enter_async_context(replicate.ReplicateEmulator(billed))
        warnings.warn(
            StandInWarning(f"Replicate is emulated; its ledger is at {emulator.ledger_url}"),
            stacklevel=2,
        )
        return emulator.base_url, emulator.token

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the servers' addresses as variables, for commands beside the stack."""
        assert self._addresses is not None, "it was started"
        return self._addresses.result().environment()

    async def watch(self) -> None:
        """Raise when a service or a server has failed; never return.

        Raises:
            SegueError: a service failed too often, or a server ended.
        """
        while True:
            await self._unless_a_service_ends(self._clock.sleep(_WATCH_S))
            if (server := self._servers.ended_server()) is not None:
                raise SegueError(f"{server.name} ended by itself\n{tail(server.log)}".rstrip())

    async def stop(self, force: asyncio.Event) -> bool:
        """Stop everything in reverse order; return whether every service ended.

        `force` ends the grace periods.
        """
        stages, api = self._tasks[:-1], self._tasks[-1:]
        # 1. the stages finish or cancel their work, commit, and leave their groups
        is_clean = await self._stop_services(stages, within_s=_STAGES_STOP_S, force=force)
        # 2. the api after them: it has then consumed their last events
        is_clean = await self._stop_services(api, within_s=_API_STOP_S, force=force) and is_clean
        await self._emulators.aclose()
        # 3. the servers write their data; those that are still starting, after their start
        if self._addresses is not None:
            await asyncio.wait([self._addresses])
        await asyncio.to_thread(self._servers.stop)
        return is_clean

    async def _unless_a_service_ends(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`; raise the error of a service that ends meanwhile."""
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
            while not await _is_success(client, f"{self.url}/readyz"):
                await self._clock.sleep(_POLL_S)

    async def _stop_services(
        self, tasks: list[asyncio.Task[None]], *, within_s: float, force: asyncio.Event
    ) -> bool:
        """Stop these services, cancel them after `within_s`; return whether all ended."""
        if not tasks:
            return True
        names = {task.get_name() for task in tasks}
        for service in self._services:
            if service.name in names:
                service.stop.set()
        ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=within_s))
        forced = asyncio.ensure_future(force.wait())
        await asyncio.wait([ended, forced], return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        for task in tasks:
            task.cancel()  # has no effect on those that ended
        _, hanging = await asyncio.wait(tasks, timeout=_CANCEL_S)
        return not hanging


async def run(
    settings: StackSettings,
    *,
    stop: asyncio.Event,
    force: asyncio.Event,
    on_ready: Callable[[RunningStack], None],
) -> bool:
    """Run a stack until `stop`; return whether every service ended.

    `on_ready` is called once the api answers; `force` ends the grace periods.

    Raises:
        SegueError: it could not start, or a part of it failed.
    """
    with locked_data_dir(settings.home.folder) as folder:
        remove_stack_files(folder)  # of a stack that ended with the power
        free_bytes = shutil.disk_usage(folder).free
        check_space(folder, is_native=settings.kind == "native", free_bytes=free_bytes)
        port = settings.port or free_ports(1)[0]
        check_address(settings.host, port)
        stack = Stack(settings, folder, port=port, clock=SystemClock())
        stopping = asyncio.ensure_future(stop.wait())
        running = asyncio.ensure_future(_run(stack, folder, settings.provider, on_ready))
        try:
            await asyncio.wait([stopping, running], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            remove_stack_files(folder)
            for task in (stopping, running):
                task.cancel()
            await asyncio.wait([stopping, running])
            is_clean = await stack.stop(force)
        return is_clean


def api_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches an api that listens on `host`."""
    if host in _EVERY_ADDRESS:
        host = _EVERY_ADDRESS[host]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def stop_when_unused(folder: Path, stop: asyncio.Event) -> None:
    """Set `stop` once no client holds the lock of `folder` any more."""
    lock = ClientLock(folder)
    while not lock.try_lock_exclusive():  # noqa: ASYNC110 - a file lock has no event
        await asyncio.sleep(_WATCH_S)
    stop.set()  # this process keeps the lock until it ends: no client can join a stopping stack


async def _run(
    stack: Stack, folder: Path, provider: str, on_ready: Callable[[RunningStack], None]
) -> None:
    clock = SystemClock()
    await stack.start()
    running = RunningStack(
        pid=os.getpid(), api_url=stack.url, provider=provider, started_at=clock.now()
    )
    write_stack_files(folder, running, environment=stack.environment)
    on_ready(running)
    await stack.watch()


async def _is_success(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False


def check_address(host: str, port: int) -> None:
    """Raise if the api could not listen there.

    Raises:
        SettingsError: the message names the variable: the address or the port.
    """
    try:
        bind_socket(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                "SEGUE_API_PORT",
                f"port {port} of {host} is in use; stop the process that uses it, or set another "
                "port: segue up --port 0 takes any free one",
            ) from error
        if error.errno == errno.EACCES:
            raise SettingsError(
                "SEGUE_API_PORT",
                f"this user may not listen on port {port}; set one from 1024 on",
            ) from error
        raise SettingsError(
            "SEGUE_API_HOST",
            f"{host} is not an address of this machine ({error.strerror or error}); set "
            "127.0.0.1 for this machine alone, or 0.0.0.0 for every network",
        ) from error
