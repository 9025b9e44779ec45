"""Progress: what a job's status says, told to a person while it changes.

Each scene is a line when it is done; on a terminal a bar moves below them. Without a terminal
there are the lines alone, so a log holds the whole story and no control characters.

I/O: the console.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from services.api.http.schemas import SceneStatus, StatusAnswer
from services.api.operators import dollars

_SETTLED = frozenset({"done", "failed"})
_STAGES = {
    "audio_generation_pending": "waiting",
    "audio_generation": "making music",
    "audio_completed": "done",
}
_STATES = {"merging": "joining the segments", "muxing": "putting it under the picture"}
TELL_EVERY_S = 2.0


def progress_reporter(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """A function that says how many of how many `what` are done, not too often."""
    said_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= TELL_EVERY_S:
            said_at = time.monotonic()
            say(f"{done} of {total} {what}")

    return tell


class JobProgress:
    """Tells one job's progress; use it as a context, and give it each status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[int] = set()
        self._state = ""
        self._waits = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("waiting", total=100)

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

    def update(self, status: StatusAnswer) -> None:
        """Tell what is new."""
        count = len(status.progress.scenes)
        for scene in status.progress.scenes:
            if scene.state in _SETTLED and scene.index not in self._told:
                self._told.add(scene.index)
                self._console.print(_line(scene, count), highlight=False)
        doing = _STATES.get(status.state, _STAGES[status.progress.stage])
        waits = status.waiting.reason if status.waiting else ""
        if waits != self._waits:
            self._console.print(escape(f"waits: {waits}") if waits else "goes on", highlight=False)
        self._waits = waits
        doing = "waiting for the provider" if waits else doing
        if status.state != self._state and status.state in _STATES:
            self._console.print(doing, highlight=False)
        self._state = status.state
        self._bar.update(self._task, completed=status.progress.percentage, description=doing)


def _line(scene: SceneStatus, count: int) -> str:
    how = scene.origin.value if scene.origin else scene.state
    seconds = f"{scene.duration_s:8.3f} s" if scene.duration_s is not None else ""
    saved = f"saved {dollars(scene.saved_usd)}" if scene.saved_usd else ""
    notes = [scene.provider or "", saved, scene.reason or "", *scene.warnings]
    told = "; ".join(note for note in notes if note)
    return escape(f"scene {scene.index + 1:>3}/{count}  {how:<10}{seconds}  {told}".rstrip())
