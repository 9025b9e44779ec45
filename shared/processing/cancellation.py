"""Cancels the work of a run as soon as the run is cancelled or superseded.

A lane that waits minutes for a prediction, a download or ffmpeg of an ended run wakes up at once
and stops; the generator also cancels the prediction at the provider.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.errors import SegueError
from shared.processing.active_runs import ActiveRuns
from shared.processing.wait import completes_first

T = TypeVar("T")


class RunEndedError(SegueError):
    """The run was superseded or cancelled while work for it was in progress."""


class RunCancellation:
    """Interrupts waits on behalf of runs; `active_runs` decides which runs are current."""

    def __init__(self, active_runs: ActiveRuns) -> None:
        self.active_runs = active_runs
        self._waits: dict[tuple[str, int], set[asyncio.Event]] = {}

    def wake_ended(self, job_id: str) -> None:
        """Wake every wait for a run of this job that has ended."""
        for (waiting_job, run), events in list(self._waits.items()):
            if waiting_job == job_id and not self.active_runs.is_current(job_id, run):
                for event in events:
                    event.set()

    async def unless_ended(
        self,
        job_id: str,
        run: int,
        work: Awaitable[T],
        *,
        on_end: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Return the result of `work`; if the run ends first, await `on_end` and raise.

        Raises:
            RunEndedError: the run ended.
        """
        task = asyncio.ensure_future(work)
        with self._end_event(job_id, run) as ended:
            if await completes_first(task, ended.wait()):
                return task.result()
        if on_end is not None:
            await on_end()
        raise RunEndedError(f"run {run} was cancelled or superseded")

    @contextmanager
    def _end_event(self, job_id: str, run: int) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        if not self.active_runs.is_current(job_id, run):
            event.set()
        events = self._waits.setdefault((job_id, run), set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._waits.pop((job_id, run), None)
