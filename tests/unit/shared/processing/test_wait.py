"""Waiting ends with the work or with the stop, whichever comes first."""

import asyncio

import pytest

from shared.processing.wait import completes_first, wait_or_stop
from tests.fakes.clock import FakeClock


async def test_work_that_ends_first_completes() -> None:
    """Its result is in the future that was passed."""
    work = asyncio.ensure_future(asyncio.sleep(0, "result"))

    assert await completes_first(work, asyncio.Event().wait())
    assert work.result() == "result"


async def test_the_end_cancels_the_work_and_waits_for_its_cleanup() -> None:
    """Nothing runs on in the background."""
    started, cleaned_up = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    assert not await completes_first(work(), started.wait())
    assert cleaned_up.is_set()


async def test_cancelling_the_wait_cancels_both() -> None:
    """The work ends with the task that waits for it."""
    work = asyncio.ensure_future(asyncio.Event().wait())
    end = asyncio.ensure_future(asyncio.Event().wait())
    waiting = asyncio.create_task(completes_first(work, end))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()
    assert end.cancelled()


async def test_wait_or_stop_waits_by_the_clock() -> None:
    """Without a stop it returns False after the given time."""
    clock = FakeClock()

    assert not await wait_or_stop(asyncio.Event(), 60.0, clock=clock)
    assert clock.elapsed_s == 60.0


async def test_wait_or_stop_returns_at_the_stop() -> None:
    """A set stop ends the wait at once."""
    stop = asyncio.Event()
    stop.set()

    async with asyncio.timeout(1):
        assert await wait_or_stop(stop, 60.0)
