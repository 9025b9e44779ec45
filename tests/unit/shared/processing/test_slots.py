"""Slots bound concurrent work and report how many are in use."""

import asyncio

import pytest

from shared.processing.slots import Slots


async def test_work_beyond_the_number_of_slots_waits() -> None:
    """The third task starts when one of the first two ends; the figures count those running."""
    slots, may_end = Slots(2), asyncio.Event()
    figures: list[dict[str, int]] = []

    async def work() -> None:
        async with slots:
            figures.append(slots.figures())
            await may_end.wait()

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)

    assert figures == [{"slots": 2, "slots_taken": 1}, {"slots": 2, "slots_taken": 2}]
    may_end.set()
    await asyncio.gather(*tasks)
    assert slots.figures() == {"slots": 2, "slots_taken": 0}


async def test_a_slot_is_freed_however_the_work_ends() -> None:
    """By an error, or by a cancellation while it runs or waits."""
    slots = Slots(1)
    with pytest.raises(ValueError, match="wrong"):
        async with slots:
            raise ValueError("wrong")

    async def hold() -> None:
        async with slots:
            await asyncio.Event().wait()

    holding, waiting = asyncio.create_task(hold()), asyncio.create_task(hold())
    for _ in range(3):
        await asyncio.sleep(0)
    for task in (waiting, holding):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert slots.figures()["slots_taken"] == 0
    async with asyncio.timeout(1), slots:
        assert slots.figures()["slots_taken"] == 1
