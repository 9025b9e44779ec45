"""Real servers of a single test that are killed with SIGKILL and restarted.

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
from embedded.servers.object_store import STORES
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import Server
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError
from tests.support.servers import S3_NAME, TOOLS

_GONE_S = 20.0
_AGAIN_S = 30.0  # until the killed server's leftovers are gone


@contextmanager
def short_folder() -> Iterator[Path]:
    """Create a folder with a short path, as sockets need; remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class KillablePostgres:
    """A PostgreSQL server that is durable across kills."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder, durable=True)
        self.url = self._server.start()

    async def kill(self) -> None:
        """Kill the postmaster with SIGKILL; its children end."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Restart with the stored data."""
        again = await asyncio.to_thread(_again, self._server)
        assert again == self.url, "the address changed"

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()


class KillableS3:
    """A durable object store that keeps its address across kills."""

    def __init__(self, folder: Path) -> None:
        self._server = STORES[S3_NAME](folder, TOOLS)
        self.settings = self._server.start()

    async def kill(self) -> None:
        """Kill the server with SIGKILL."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Restart with the stored data."""
        await asyncio.to_thread(lambda: self._server.start(previous=self.settings))

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()


class KillableKafka:
    """A broker that keeps its address across kills."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = NativeKafka(folder, ToolSettings.from_environment())
        self.bootstrap = self._server.start()

    async def kill(self) -> None:
        """Kill the server with SIGKILL."""
        await asyncio.to_thread(kill, self._server.server)

    async def start(self) -> None:
        """Restart with the stored data."""
        port = int(self.bootstrap.rpartition(":")[2])
        await asyncio.to_thread(lambda: self._server.start(port=port))

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): connections stay open without responses."""
        _send(self._server.server, signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the process (SIGCONT)."""
        _send(self._server.server, signal.SIGCONT)

    async def lose(self) -> None:
        """Kill the broker and delete its data."""
        await self.kill()
        await asyncio.to_thread(shutil.rmtree, self._folder / "data")

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()


def kill(server: Server) -> None:
    """Kill the process of a server; wait until its watchdog has noticed."""
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
