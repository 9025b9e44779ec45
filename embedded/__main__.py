"""Start a stack on this machine: `python -m embedded`, or `segue up`.

Exit codes: 0 stopped as asked, 1 stopped by a fault, 2 the settings are wrong, 130 stopped by
force (a second Ctrl-C).
"""

import argparse
import asyncio
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO, cast, get_args

from embedded.settings import StackKind, StackSettings
from embedded.stack import run, stop_when_unused
from shared.clock import SystemClock
from shared.errors import SegueError, SettingsError
from shared.local_stack import DataDirSettings, RunningStack
from shared.service_process import EXIT_FAULT, EXIT_SETTINGS
from shared.storage import StandInWarning
from shared.telemetry import trace
from shared.telemetry.log import configure

EXIT_HURRIED = 130


def main() -> int:
    """Run the stack that the command line and the environment describe; the exit code."""
    arguments = _arguments()
    try:
        settings = _settings(arguments)
        configure(settings.telemetry)
        trace.configure(settings.telemetry, service="stack")
        _announce_standins(settings)
        return asyncio.run(_serve(settings, while_used=arguments.while_used))
    except SettingsError as error:
        _say(f"does not start: {error}", to=sys.stderr)
        return EXIT_SETTINGS
    except SegueError as error:
        _say(f"stopped: {error}", to=sys.stderr)
        return EXIT_FAULT
    finally:
        trace.close()


async def _serve(settings: StackSettings, *, while_used: bool) -> int:
    clock = SystemClock()
    began_s = clock.monotonic()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            hurry.set()
        else:
            _say("stopping; once more stops at once")
            stop.set()

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(name, asked)

    def ready(stack: RunningStack) -> None:
        _say(f"ready at {stack.api_url} after {clock.monotonic() - began_s:.1f} s")

    watching = None
    if while_used:
        watching = asyncio.ensure_future(stop_when_unused(settings.home.folder, stop))
    try:
        clean = await run(settings, stop=stop, hurry=hurry, ready=ready)
    finally:
        if watching is not None:
            watching.cancel()
    _say("stopped")
    code = EXIT_HURRIED if hurry.is_set() else 0
    if hurry.is_set() or not clean:
        trace.close()
        sys.stdout.flush()
        os._exit(code)  # what hangs was asked, cancelled and given time: it is not waited for
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="segue up", description="The whole of Segue on this machine, until Ctrl-C."
    )
    parser.add_argument(
        "--stack",
        dest="kind",
        choices=get_args(StackKind),
        help="which servers: embedded in Python, native real ones, external (SEGUE_STACK)",
    )
    parser.add_argument("--provider", help="who makes the music (MUSIC_PROVIDER; default synth)")
    parser.add_argument("--port", type=int, help="of the api (SEGUE_API_PORT; 0: any free one)")
    parser.add_argument("--data-dir", type=Path, help="where data is kept (SEGUE_DATA_DIR)")
    parser.add_argument(
        "--while-used", action="store_true", help="stop when no client holds the clients' lock"
    )
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> StackSettings:
    """The environment's settings; what the command line says wins."""
    given: dict[str, Any] = {
        name: value
        for name in ("kind", "provider", "port")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.data_dir is not None:
        given["home"] = DataDirSettings.from_environment(data_dir=arguments.data_dir)
    return StackSettings.from_environment(**given)


def _announce_standins(settings: StackSettings) -> None:
    """Say what is not the real thing: the parts that warn by themselves, and the folder.

    Of native servers: that their first start may take minutes.
    """

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        kind = "stand-in" if issubclass(category, StandInWarning) else category.__name__
        _say(f"{kind}: {message}")

    warnings.showwarning = cast("Any", show)
    warnings.simplefilter("once", StandInWarning)
    folder = settings.home.folder
    _say(f"data in {folder}")
    if settings.kind == "embedded":
        _say(f"stand-in: the object store is a folder, {folder / 'objects'}")
    elif settings.kind == "native":
        _say("Kafka and MinIO are fetched or built at their first start: seconds to minutes")


def _say(line: str, *, to: TextIO = sys.stdout) -> None:
    print(f"segue: {line}", file=to, flush=True)


if __name__ == "__main__":
    # The loop's threads are not waited for longer than the stack gave them: exit codes are exact.
    sys.exit(main())
