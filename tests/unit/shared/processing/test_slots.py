"""Slots bound what runs at once, and say how many are taken."""

import asyncio

import pytest

from shared.processing.slots import Slots


async def test_no_more_run_at_once_than_there_are_slots_and_the_figures_say_so() -> None:
    """The third waits until one of the two others is done."""
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


async def test_a_slot_is_given_back_whatever_ends_the_work() -> None:
    """An error, or a cancellation while it works or waits."""
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
