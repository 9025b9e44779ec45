"""Shows the progress of a job or of a long command.

Each scene is printed once, when it ends; on a terminal a bar moves below. Without a terminal only
the lines are printed, so that a log has no control characters.

I/O: the console.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ops.cli.layout import Hanging, Line, wrap
from ops.cli.terminal import TextConsole
from services.api.http.schemas import SceneStatus, StatusResponse
from services.api.operators import dollars

_ENDED = frozenset({"done", "failed"})
_STAGES = {
    "audio_generation_pending": "Waiting",
    "audio_generation": "Generating the music",
    "audio_completed": "Done",
}
_STATES = {"merging": "Merging the segments", "muxing": "Muxing the track with the video"}
REPORT_INTERVAL_S = 2.0
ProgressReporter = Callable[[int, int], None]  #: done, total


def progress_reporter(report: Callable[[str], None], what: str) -> ProgressReporter:
    """Return a function that reports `N of TOTAL what`, at most every `REPORT_INTERVAL_S`."""
    reported_at = time.monotonic()

    def report_progress(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= REPORT_INTERVAL_S:
            reported_at = time.monotonic()
            report(f"{done} of {total} {what}")

    return report_progress


def progress_console(*, quiet: bool) -> Console:
    """Return the console for progress; a quiet one prints nothing."""
    return TextConsole(quiet=quiet, ends_with_reader=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar that is shown on a terminal only, and removed at its end."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class JobProgress:
    """Shows the progress of one job; use it as a context manager and pass it each status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_scenes: set[int] = set()
        self._state = ""
        self._waiting_reason = ""
        self._problems = frozenset[str]()
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("Waiting", total=100)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, status: StatusResponse) -> None:
        """Print what changed since the last status."""
        count = len(status.progress.scenes)
        for scene in status.progress.scenes:
            if scene.state in _ENDED and scene.index not in self._printed_scenes:
                self._printed_scenes.add(scene.index)
                self._print(scene_line(scene, count))
        activity = _STATES.get(status.state, _STAGES[status.progress.stage])
        reason = status.waiting.reason if status.waiting else ""
        if reason != self._waiting_reason:
            self._print(Hanging("Waiting: ", reason) if reason else f"Resuming run {status.run}.")
        self._waiting_reason = reason
        activity = "Waiting for the provider" if reason else activity
        if status.state != self._state and status.state in _STATES:
            self._print(activity)
        self._state = status.state
        self._bar.update(self._task, completed=status.progress.percentage, description=activity)

    def show_problems(self, problems: Sequence[str]) -> None:
        """Print the servers that are unavailable, each once until it answers again."""
        for problem in problems:
            if problem not in self._problems:
                self._print(Hanging("! ", problem))
        self._problems = frozenset(problems)

    def _print(self, line: Line) -> None:
        width = self._console.width if self._console.is_terminal else None
        for part in wrap(line, width):
            self._console.print(Text(part), highlight=False)


def scene_line(scene: SceneStatus, count: int) -> Line:
    """Return one ended scene as text."""
    origin = scene.origin.value if scene.origin else scene.state
    number = f"{scene.index + 1:>{len(str(count))}}/{count}"
    seconds = f"{scene.duration_s:.1f} s" if scene.duration_s is not None else ""
    saved = f"saved {dollars(scene.saved_usd)}" if scene.saved_usd else ""
    notes = "; ".join(filter(None, (saved, scene.reason, *scene.warnings)))
    source = scene.provider or ""
    details = f"{source} ({notes})" if source and notes else source or notes
    head = f"scene {number}  {origin:<9}  {seconds:>7}  "
    return Hanging(head, details) if details else head.rstrip()
