"""Interrupts: a run that is no longer wanted stops waiting, at once and wherever it waits.

A cancelled or superseded run must not sit out ten minutes of somebody else's GPU: whoever
waits for its prediction is woken, cancels it at the provider and leaves.
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
    """The run was superseded or cancelled while its scene was being made."""


class Interrupts:
    """Who waits on behalf of which run. The book says which runs count."""

    def __init__(self, active_runs: ActiveRuns) -> None:
        self.active_runs = active_runs
        self._waiting: dict[tuple[str, int], set[asyncio.Event]] = {}

    def look(self, job_id: str) -> None:
        """The book changed: wake whoever waits for a run of this job that ended."""
        for (waiting_for, run), events in list(self._waiting.items()):
            if waiting_for == job_id and not self.active_runs.is_current(job_id, run):
                for event in events:
                    event.set()

    async def unless_ended(
        self, job_id: str, run: int, work: Awaitable[T], *, on_end: Callable[[], Awaitable[None]]
    ) -> T:
        """What `work` returns, unless the run ends first: then `on_end` is awaited.

        Raises:
            RunEndedError: the run ended.
        """
        task = asyncio.ensure_future(work)
        with self._listening(job_id, run) as ended:
            if await completes_first(task, ended.wait()):
                return task.result()
        await on_end()
        raise RunEndedError(f"run {run} is no longer wanted")

    @contextmanager
    def _listening(self, job_id: str, run: int) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        if not self.active_runs.is_current(job_id, run):
            event.set()
        listeners = self._waiting.setdefault((job_id, run), set())
        listeners.add(event)
        try:
            yield event
        finally:
            listeners.discard(event)
            if not listeners:
                self._waiting.pop((job_id, run), None)
