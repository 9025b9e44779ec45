"""Watch: the command that shows how the whole line stands, again and again.

It looks; it writes nothing. A server that goes away is shown as away, beside what it said last,
and is found again when it is back. Ctrl-C is how it ends, so that is no failure.

I/O: Kafka, PostgreSQL, HTTP to health ports, the terminal.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.live import Live

from ops.cli.exit_codes import CommandError, Exit, print_json, report_errors
from ops.cli.operator import Operator, run_with_operator
from ops.cli.options import DataDir
from ops.cli.output import plain
from ops.cli.settings import CommandSettings
from ops.cluster.consumer_groups import SERVICES
from ops.watch.collect import Watcher
from ops.watch.render import screen
from ops.watch.snapshot import Snapshot, told_of
from shared.processing.wait import completes_first, wait_or_stop

Ask = Annotated[
    list[str] | None,
    typer.Option(
        "--ask",
        metavar="NAME=URL",
        help="Where a service answers readyz: its lanes are shown (SEGUE_SERVICE_URLS).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often, and for how long."""

    every_s: float
    for_s: float | None  #: None: until Ctrl-C


def watch(
    *,
    once: Annotated[bool, typer.Option("--once", help="One screen, and end.")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between looks.")] = 2.0,
    within: Annotated[
        float | None, typer.Option("--for", min=0, help="End after so many seconds.")
    ] = None,
    ask: Ask = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One look as JSON, and end.")] = False,
) -> None:
    """Show services, lag, jobs by stage, spending and dead letters, until Ctrl-C (exit code 0)."""
    with report_errors(as_json=as_json):
        urls = addresses(ask or CommandSettings.from_environment().service_urls.split(","))

        async def body(operator: Operator) -> Snapshot:
            watcher = Watcher(operator=operator, urls=urls)
            if once or as_json:
                return await watcher.look()
            return await _watch(watcher, Pace(every_s=every, for_s=within))

        shown = run_with_operator(body, as_json=as_json, data_dir=data_dir)
        if as_json:
            print_json(told_of(shown))
        elif once or plain().is_terminal:
            plain().print(screen(shown))  # the last one stays on the terminal
        if (once or as_json) and not shown.is_whole:
            raise typer.Exit(Exit.UNREACHABLE)


def addresses(asked: Sequence[str]) -> list[tuple[str, str]]:
    """Services and where they answer, of `NAME=URL` each.

    Raises:
        CommandError: one of them is something else.
    """
    found = []
    for one in filter(None, (one.strip() for one in asked)):
        name, _, url = one.partition("=")
        if name not in SERVICES or not url.startswith(("http://", "https://")):
            told = f"{one} is not NAME=URL with a name of {', '.join(SERVICES)}"
            raise CommandError(Exit.USAGE, f"--ask (SEGUE_SERVICE_URLS): {told}")
        found.append((name, url))
    return found


async def _watch(watcher: Watcher, pace: Pace) -> Snapshot:
    """Look until asked to stop, or for as long as `pace` says; the last moment."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    ends_s = None if pace.for_s is None else loop.time() + pace.for_s
    shown = await watcher.look()
    with _drawn(shown) as draw:
        while not await _is_time(stop, pace, ends_s):
            looking = asyncio.ensure_future(watcher.look())
            if not await completes_first(looking, stop.wait()):
                break
            shown = shown.after(looking.result())
            draw(shown)
    return shown


@contextmanager
def _drawn(first: Snapshot) -> Iterator[Callable[[Snapshot], None]]:
    """A terminal's whole screen, drawn anew each time; elsewhere one screen below the other."""
    console = plain()
    if not console.is_terminal:

        def draw_below(shown: Snapshot) -> None:
            console.print(screen(shown), "")

        draw_below(first)
        yield draw_below
        return
    with Live(screen(first), console=console, screen=True, auto_refresh=False) as live:

        def draw(shown: Snapshot) -> None:
            live.update(screen(shown), refresh=True)

        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, live.refresh)
        yield draw


async def _is_time(stop: asyncio.Event, pace: Pace, ends_s: float | None) -> bool:
    """Wait for the next look; whether there is none any more."""
    loop = asyncio.get_running_loop()
    left_s = pace.every_s if ends_s is None else min(pace.every_s, max(ends_s - loop.time(), 0.0))
    is_stopped = await wait_or_stop(stop, left_s)
    return is_stopped or (ends_s is not None and loop.time() >= ends_s)
