"""Starting: a service from the environment to its exit code.

Exit codes: 0 stopped as asked, 1 stopped by a fault, 2 the environment is wrong.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from shared.errors import SegueError, SettingsError
from shared.settings import TelemetrySettings, secrets_in
from shared.telemetry import trace
from shared.telemetry.log import configure, logger_of
from shared.telemetry.redaction import hide

EXIT_FAULT = 1
EXIT_SETTINGS = 2


class ServiceSettings(Protocol):
    """What every service's settings have."""

    @property
    def telemetry(self) -> TelemetrySettings:
        """How to speak."""
        ...


S = TypeVar("S", bound=ServiceSettings)


class RunService(Protocol[S]):  # type: ignore[misc]  # contravariance does not matter to one caller
    """A service's door."""

    def __call__(self, settings: S, *, stop: asyncio.Event) -> Awaitable[None]:
        """Serve until `stop`."""
        ...


def main(service: str, read_settings: Callable[[], S], run: RunService[S]) -> None:
    """Read the settings once, serve until SIGINT or SIGTERM, and exit."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.exit(_print_error(f"{service} does not start: {error}", EXIT_SETTINGS))
    configure(settings.telemetry)
    logging.captureWarnings(capture=True)
    hide(secrets_in(settings))
    trace.configure(settings.telemetry, service=service)
    try:
        asyncio.run(_serve(run, settings))
    except SettingsError as error:
        sys.exit(_print_error(f"{service} does not start: {error}", EXIT_SETTINGS))
    except SegueError as error:
        logger_of(service).error("stopped by a fault", action="service.failed", reason=str(error))
        sys.exit(EXIT_FAULT)
    except Exception as error:  # noqa: BLE001 - a traceback as a line, without what it may quote
        logger_of(service).error(
            "stopped by a bug", action="service.failed", reason=repr(error), exc_info=True
        )
        sys.exit(EXIT_FAULT)
    finally:
        trace.close()


async def _serve(run: RunService[S], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    await run(settings, stop=stop)


def _print_error(line: str, code: int) -> int:
    sys.stderr.write(line + "\n")
    return code
