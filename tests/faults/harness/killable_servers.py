"""Killing: real servers that a test has to itself, ended with SIGKILL and started again.

I/O: processes.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedded.servers.kafka import NativeKafka
from embedded.servers.minio import NativeMinio
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import Server
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError

_GONE_S = 20.0
_AGAIN_S = 30.0  # until what the dead one left behind is gone


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder on a short path (sockets have no room for a long one), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class KilledPostgres:
    """PostgreSQL that keeps what it confirmed, whatever happens to it."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder, durable=True)
        self.url = self._server.start()

    async def kill(self) -> None:
        """SIGKILL of the postmaster; its children notice."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Start again, on what is there."""
        again = await asyncio.to_thread(_again, self._server)
        assert again == self.url, "clients know the old one"

    def stop(self) -> None:
        """End it for good."""
        self._server.stop()


class KilledMinio:
    """An object store that keeps what it confirmed, at the same address over its deaths."""

    def __init__(self, folder: Path) -> None:
        self._server = NativeMinio(folder, ToolSettings.from_environment())
        self.settings = self._server.start()

    async def kill(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Start again, on what is there."""
        await asyncio.to_thread(lambda: self._server.start(previous=self.settings))

    def stop(self) -> None:
        """End it for good."""
        self._server.stop()


class KilledKafka:
    """A broker whose address stays the same over its deaths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = NativeKafka(folder, ToolSettings.from_environment())
        self.bootstrap = self._server.start()

    async def kill(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Start again, on what is there."""
        port = int(self.bootstrap.rpartition(":")[2])
        await asyncio.to_thread(lambda: self._server.start(port=port))

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        _send(self._server.server, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        _send(self._server.server, signal.SIGCONT)

    async def lose(self) -> None:
        """Kill it, and forget everything that it had."""
        await self.kill()
        await asyncio.to_thread(shutil.rmtree, self._folder / "data")

    def stop(self) -> None:
        """End it for good."""
        self._server.stop()


def kill(server: Server) -> None:
    """SIGKILL the process of a server, and wait until its watchdog has noticed."""
    _send(server, signal.SIGKILL)
    end = time.monotonic() + _GONE_S
    while server.is_running:
        assert time.monotonic() < end, f"{server.name} does not end"
        time.sleep(0.02)
    server.stop()


def _send(server: Server, number: signal.Signals) -> None:
    assert server._watchdog is not None, "it runs"
    watchdog = server._watchdog.pid
    for child in Path(f"/proc/{watchdog}/task/{watchdog}/children").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(child), number)


def _again(server: EmbeddedPostgres) -> str:
    end = time.monotonic() + _AGAIN_S
    while True:
        try:
            return server.start()
        except ServerStartError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
