"""Runs a stack on this machine: `python -m embedded`, or `segue up`.

Log lines go to standard output: text on a terminal, JSON otherwise (`SEGUE_LOG_FORMAT`).

Exit codes: 0 stopped on request, 1 stopped by a fault, 2 the settings are wrong, 130 stopped by
force (a second Ctrl-C).
"""

import argparse
import asyncio
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, cast, get_args

from embedded.settings import (
    UNUSED_VARIABLES,
    StackKind,
    StackSettings,
    is_loopback,
    unused_variables,
)
from embedded.stack import run, stop_when_unused
from shared.clock import SystemClock
from shared.errors import SegueError, SettingsError
from shared.http.account_check import check_account
from shared.local_stack import DataDirSettings, RunningStack
from shared.music_providers import PROVIDERS, list_of
from shared.service_process import EXIT_FAULT, EXIT_SETTINGS
from shared.storage import StandInWarning
from shared.telemetry import trace
from shared.telemetry.log import configure, logger_of

EXIT_FORCED = 130


def main() -> int:
    """Run the configured stack; return the exit code."""
    arguments = _arguments()
    try:
        settings = _settings(arguments)
        configure(settings.telemetry, stream=sys.stdout)
        trace.configure(settings.telemetry, service="stack")
        _log_start(settings)
        _check_account(settings)
        return asyncio.run(_serve(settings, while_used=arguments.while_used))
    except SettingsError as error:
        sys.stderr.write(f"segue up cannot start: {error}\n")
        return EXIT_SETTINGS
    except SegueError as error:
        logger_of("stack").error("stopped", action="service.failed", reason=str(error))
        return EXIT_FAULT
    finally:
        trace.close()


async def _serve(settings: StackSettings, *, while_used: bool) -> int:
    clock, log = SystemClock(), logger_of("stack")
    began_s = clock.monotonic()
    stop, force = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            force.set()
        else:
            log.info("stopping; press Ctrl-C again to stop at once", action="service.stopping")
            stop.set()

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(name, on_signal)

    def on_ready(stack: RunningStack) -> None:
        seconds = round(clock.monotonic() - began_s, 1)
        log.info("ready", action="service.ready", url=stack.api_url, seconds=seconds)

    watching = None
    if while_used:
        watching = asyncio.ensure_future(stop_when_unused(settings.home.folder, stop))
    try:
        is_clean = await run(settings, stop=stop, force=force, on_ready=on_ready)
    finally:
        if watching is not None:
            watching.cancel()
    log.info("stopped", action="service.stopped")
    code = EXIT_FORCED if force.is_set() else 0
    if force.is_set() or not is_clean:
        trace.close()
        sys.stdout.flush()
        os._exit(code)  # tasks that ignored their cancellation would keep the process alive
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="segue up", description="Run all of Segue on this machine until Ctrl-C."
    )
    parser.add_argument(
        "--stack",
        dest="kind",
        choices=get_args(StackKind),
        help="servers: embedded, native (real ones) or external (SEGUE_STACK)",
    )
    parser.add_argument(
        "--provider",
        dest="wanted",
        help=f"music provider (MUSIC_PROVIDER): {list_of(PROVIDERS)}; "
        "default: replicate with REPLICATE_API_KEY, else synth",
    )
    parser.add_argument("--host", help="address that the api listens on (SEGUE_API_HOST)")
    parser.add_argument("--port", type=int, help="port of the api (SEGUE_API_PORT; 0: a free one)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data (SEGUE_DATA_DIR)")
    parser.add_argument(
        "--while-used", action="store_true", help="stop when no client holds the clients' lock"
    )
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> StackSettings:
    """Return the environment's settings; the command line wins."""
    options: dict[str, Any] = {
        name: value
        for name in ("kind", "wanted", "host", "port")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.data_dir is not None:
        options["home"] = DataDirSettings.from_environment(data_dir=arguments.data_dir)
    return StackSettings.from_environment(**options)


def _check_account(settings: StackSettings) -> None:
    """Check the key of Replicate, if it is needed.

    Raises:
        SettingsError: it is missing or rejected; nothing was started.
    """
    note = asyncio.run(check_account(settings.choice, settings.replicate))
    if note is not None:
        logger_of("stack").warning("provider not checked", action="provider.paused", reason=note)


def _log_start(settings: StackSettings) -> None:
    """Log the provider, the data folder, the stand-ins, and a slow first start."""
    log = logger_of("stack")
    choice = settings.choice
    log.info(
        "provider chosen", action="provider.chosen", provider=choice.name, reason=choice.reason
    )

    def log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, StandInWarning):
            log.info("stand-in", action="stand_in.used", reason=str(message))
        else:
            log.warning(str(message), action="library.logged", library=category.__name__)

    warnings.showwarning = cast("Any", log_warning)
    warnings.simplefilter("once", StandInWarning)
    folder = settings.home.folder
    log.info("starting", action="service.starting", servers=settings.kind, data=str(folder))
    if settings.kind == "embedded":
        reason = f"the object store is a folder, {folder / 'objects'}"
        log.info("stand-in", action="stand_in.used", reason=reason)
    elif settings.kind == "native":
        log.info(
            "Kafka and the S3 server are fetched or built at their first start: seconds to minutes",
            action="service.waiting",
        )
    for variable in unused_variables(settings.kind, os.environ):  # noqa: TID251 - named, not read
        log.warning(
            "variable is not used",
            action="setting.ignored",
            name=variable,
            reason=UNUSED_VARIABLES[variable],
        )
    if not is_loopback(settings.host):
        reason = "every machine that reaches this address may use the api: it has no authentication"
        log.warning(
            "api is open to the network", action="api.exposed", host=settings.host, reason=reason
        )


if __name__ == "__main__":
    # the loop's threads are awaited no longer than the stack allows: exit codes are exact
    sys.exit(main())
