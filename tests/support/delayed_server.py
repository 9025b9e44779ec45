"""Late: servers that are not there yet, behind addresses that are known already."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def forwarded(port: int, to: str) -> AsyncIterator[None]:
    """From here on `port` of this machine leads to `to`, host:port."""
    host, _, there = to.rpartition(":")
    lines: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(there))
        for one, other in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(pass_on(one, other))
            lines.add(task)
            task.add_done_callback(lines.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for line in list(lines):
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
