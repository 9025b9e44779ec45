"""Runs a service process: reads settings, configures telemetry, returns an exit code.

Exit codes: 0 stopped on request, 1 failed, 2 invalid environment.
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
from shared.telemetry.redaction import register_secrets

EXIT_FAULT = 1
EXIT_SETTINGS = 2


class ServiceSettings(Protocol):
    """Settings that every service has."""

    @property
    def telemetry(self) -> TelemetrySettings:
        """Return the settings of logs and traces."""
        ...


S = TypeVar("S", bound=ServiceSettings)


class RunService(Protocol[S]):  # type: ignore[misc]  # contravariance has no effect with one caller
    """The entry point of a service."""

    def __call__(self, settings: S, *, stop: asyncio.Event) -> Awaitable[None]:
        """Run until `stop` is set."""
        ...


def main(service: str, read_settings: Callable[[], S], run: RunService[S]) -> None:
    """Run the service until SIGINT or SIGTERM, then exit the process."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.exit(_print_error(f"{service} cannot start: {error}", EXIT_SETTINGS))
    configure(settings.telemetry)
    logging.captureWarnings(capture=True)
    register_secrets(secrets_in(settings))
    trace.configure(settings.telemetry, service=service)
    try:
        asyncio.run(_serve(run, settings))
    except SettingsError as error:
        sys.exit(_print_error(f"{service} cannot start: {error}", EXIT_SETTINGS))
    except SegueError as error:
        logger_of(service).error("failed", action="service.failed", reason=str(error))
        sys.exit(EXIT_FAULT)
    except Exception as error:  # noqa: BLE001 - logged with its redacted traceback
        logger_of(service).error(
            "failed with an unexpected error",
            action="service.failed",
            reason=repr(error),
            exc_info=True,
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
