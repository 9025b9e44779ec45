"""HTTP server inside the running event loop; handles no signals, its owner stops it.

Units: seconds. I/O: a listening socket.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from shared.errors import SettingsError
from shared.http.connections import NO_SNIFF, UnambiguousRequests, limited_protocol

BACKLOG = 2048
CONNECTIONS_MAX = 256  # of a health port
OTHER_FILES = 512  # open files besides the connections
# Longer than clients and load balancers keep an idle connection (usually 60 s at most): a client
# that reuses one at the moment the server closes it gets an error for a request never read.
KEEP_ALIVE_S = 75
_LOGGER = logging.getLogger("uvicorn.error")


def bind_socket(host: str, port: int, *, backlog: int = BACKLOG) -> socket.socket:
    """Return a listening socket; port 0 takes any free port.

    Raises:
        OSError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=backlog)
    # Inherited by every connection: without it head and body of a response are sent 40 ms apart,
    # because asyncio sets it only on sockets that it created.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """Return a listening socket; errors name the variable `setting`.

    Raises:
        SettingsError: the address is not available.
    """
    try:
        return bind_socket(host, port)
    except OSError as error:
        raise SettingsError(
            setting, f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of 127.0.0.1 on which no process listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [int(bound.getsockname()[1]) for bound in sockets]


class HttpServer:
    """Serves one application on one socket."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        stop_s: int,
        connections_max: int = CONNECTIONS_MAX,
        **options: Any,
    ) -> None:
        """`stop_s`: time for open responses at a stop; `options` are passed to uvicorn."""
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        _LOGGER.addFilter(_is_fault)
        config = uvicorn.Config(
            UnambiguousRequests(app),
            log_config=None,
            access_log=False,  # paths hold segment tokens
            lifespan="off",
            timeout_graceful_shutdown=stop_s,
            server_header=False,
            proxy_headers=False,  # a client could choose its address
            headers=[NO_SNIFF],
            ws="none",
            # Else a request that paused its connection passes its context to the next request
            # there: asyncio keeps the context in which reading was resumed.
            reset_contextvars=True,
            **{
                "timeout_keep_alive": KEEP_ALIVE_S,
                "http": limited_protocol(_within_open_files(connections_max)),
                **options,
            },
        )
        self._listening = listening
        self._stop_s = stop_s
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        port: int = self._listening.getsockname()[1]
        return port

    async def start(self) -> asyncio.Task[None]:
        """Start serving; return the task that ends with the server."""
        serving = self._server.serve(sockets=[self._listening])
        self._task = asyncio.create_task(serving, name="http")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return self._task

    def request_stop(self) -> None:
        """Accept no more connections; the task ends once open responses are sent."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Stop the server, cancelling it past `stop_s`, and close the socket."""
        self.request_stop()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=self._stop_s + 1.0)
            for task in late:
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
        self._listening.close()


def _within_open_files(connections_max: int) -> int:
    """Return `connections_max`, or less where the process may not open as many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections_max
    needed = connections_max + OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(connections_max, soft - OTHER_FILES))


def _is_fault(record: logging.LogRecord) -> bool:
    """Return False for a request that was cancelled by the server's stop."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the process entry point has them."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()
