"""Waits for work or for a stop, whichever comes first."""

import asyncio
import contextlib
from collections.abc import Awaitable

from shared.clock import Clock, SystemClock


async def completes_first(work: Awaitable[object], end: Awaitable[object]) -> bool:
    """Run both until one ends; return True if `work` ended. The other one is cancelled.

    Returns only after the cancelled one has cleaned up. To get the result or the exception of
    `work`, pass a future. If both end at once, `work` counts.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(end)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def wait_or_stop(stop: asyncio.Event, seconds: float, *, clock: Clock | None = None) -> bool:
    """Wait `seconds`, or until `stop` is set; return True if it is set."""
    if clock is None or isinstance(clock, SystemClock):  # needs no task of its own
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
    else:
        await completes_first(stop.wait(), clock.sleep(seconds))
    return stop.is_set()
