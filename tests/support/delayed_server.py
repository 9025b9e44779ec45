"""Forward a known local port to a server that starts later."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def forwarded(port: int, to: str) -> AsyncIterator[None]:
    """Forward connections of local `port` to `to` (host:port)."""
    host, _, target_port = to.rpartition(":")
    copies: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(target_port))
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(copy(source, target))
            copies.add(task)
            task.add_done_callback(copies.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in list(copies):
            task.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
