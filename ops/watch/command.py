"""The `segue watch` command: shows services, jobs and costs, and refreshes them.

The command only reads. A server that becomes unavailable is shown as such, beside its last
figures, and is read again when it is back. Ctrl-C ends the command with exit code 0.

I/O: Kafka, PostgreSQL, HTTP to health ports, the terminal.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator, operator_command
from ops.cli.options import DataDir
from ops.cli.settings import CommandSettings
from ops.cli.terminal import plain
from ops.cluster.consumer_groups import SERVICES
from ops.watch.collect import Collector
from ops.watch.render import draw
from ops.watch.snapshot import Snapshot, snapshot_json
from shared.processing.wait import completes_first, wait_or_stop

HealthUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--ask",
        metavar="NAME=URL",
        help="Health port of a service, to show its lanes and slots (SEGUE_SERVICE_URLS).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RefreshSchedule:
    """The interval between two snapshots, and when to stop."""

    interval_s: float
    duration_s: float | None  #: None: until Ctrl-C


def watch(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one screen and exit.")] = False,
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, help="Seconds between refreshes.")
    ] = 2.0,
    within: Annotated[
        float | None, typer.Option("--for", min=0, help="Exit after this many seconds.")
    ] = None,
    ask: HealthUrls = None,
    data_dir: DataDir = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one snapshot as JSON and exit.")
    ] = False,
) -> None:
    """Show services, lag, running jobs, costs and dead letters until Ctrl-C."""
    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        urls = parse_health_urls(ask or CommandSettings.from_environment().service_urls.split(","))

        async def body(operator: Operator) -> Snapshot:
            collector = Collector(operator=operator, urls=urls)
            if once or as_json:
                return await collector.collect()
            return await _watch(collector, RefreshSchedule(interval_s=every, duration_s=within))

        def last_screen(snapshot: Snapshot) -> list[RenderableType]:
            return [draw(snapshot)] if once or plain().is_terminal else []

        snapshot = command.run(body, lines=last_screen, document=snapshot_json)
        if (once or as_json) and not snapshot.is_complete:
            raise typer.Exit(Exit.UNREACHABLE)


def parse_health_urls(values: Sequence[str]) -> list[tuple[str, str]]:
    """Return service and URL of each `NAME=URL`.

    Raises:
        CommandError: a value has another form, or names no service.
    """
    urls = []
    for value in filter(None, (value.strip() for value in values)):
        name, _, url = value.partition("=")
        if name not in SERVICES or not url.startswith(("http://", "https://")):
            raise CommandError(
                Exit.USAGE,
                f"--ask (SEGUE_SERVICE_URLS): {value} is not NAME=URL; NAME is one of "
                f"{', '.join(SERVICES)}",
            )
        urls.append((name, url))
    return urls


async def _watch(collector: Collector, schedule: RefreshSchedule) -> Snapshot:
    """Refresh until a signal or the end of `schedule`; return the last snapshot."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    end_s = None if schedule.duration_s is None else loop.time() + schedule.duration_s
    snapshot = await collector.collect()
    with _display(snapshot) as show:
        while not await _wait_for_refresh(stop, schedule, end_s):
            collecting = asyncio.ensure_future(collector.collect())
            if not await completes_first(collecting, stop.wait()):
                break
            snapshot = snapshot.updated(collecting.result())
            show(snapshot)
    return snapshot


@contextmanager
def _display(first: Snapshot) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that shows a snapshot: full screen, or appended."""
    console = plain()
    if not console.is_terminal:

        def append(snapshot: Snapshot) -> None:
            console.print(draw(snapshot), "")

        append(first)
        yield append
        return
    with Live(draw(first), console=console, screen=True, auto_refresh=False) as live:

        def replace(snapshot: Snapshot) -> None:
            live.update(draw(snapshot), refresh=True)

        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, live.refresh)
        yield replace


async def _wait_for_refresh(
    stop: asyncio.Event, schedule: RefreshSchedule, end_s: float | None
) -> bool:
    """Wait until the next refresh; return True if there is none."""
    loop = asyncio.get_running_loop()
    pause_s = schedule.interval_s
    if end_s is not None:
        pause_s = min(pause_s, max(end_s - loop.time(), 0.0))
    if await wait_or_stop(stop, pause_s):
        return True
    return end_s is not None and loop.time() >= end_s
