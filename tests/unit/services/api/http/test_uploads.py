"""Slow bodies end at their limits, and slow uploads cannot hold the slots."""

import asyncio
import contextlib
from collections.abc import Iterable

import pytest
from fastapi import Request

from services.api.http.problems import ProblemError
from services.api.http.request_body import BodyLimits, receive_parts
from services.api.http.uploads import UploadSlots


def a_request(parts: Iterable[bytes], *, pause_s: float, headers: dict[str, str]) -> Request:
    """Return a request whose body arrives part by part, with a pause before each."""
    queue = iter(parts)

    async def receive() -> dict[str, object]:
        await asyncio.sleep(pause_s)
        part = next(queue, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw, "path": "/"}, receive)


async def received(parts: Iterable[bytes], *, pause_s: float, limits: BodyLimits) -> int:
    """Return the size of a received body."""
    request = a_request(parts, pause_s=pause_s, headers={})
    return sum([len(part) async for part in receive_parts(request, limits)])


def body_limits(**given: float) -> BodyLimits:
    """Return limits of fractions of a second."""
    fields = {"bytes_max": 1_000_000, "stall_s": 0.15, "rate_min": 100_000, "total_s": 5.0}
    return BodyLimits(**{**fields, **given})  # type: ignore[arg-type]


async def test_a_body_at_the_minimum_rate_is_received() -> None:
    """20 parts of 10,000 bytes, one each 10 ms: 1 MB/s."""
    size = await received([b"x" * 10_000] * 20, pause_s=0.01, limits=body_limits())

    assert size == 200_000


@pytest.mark.parametrize(
    ("size", "pause_s", "given"),
    [
        (1, 1.0, {}),  # stalls
        (1, 0.02, {}),  # a byte now and then: never stalls, and never ends
        (1000, 0.02, {}),  # half the rate
        (100_000, 0.05, {"total_s": 0.2, "bytes_max": 10**9}),  # fast, and without end
    ],
)
async def test_a_slow_body_is_rejected(size: int, pause_s: float, given: dict[str, float]) -> None:
    """408 with the limits; the time is bounded however the bytes are spread."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    with pytest.raises(ProblemError, match="SEGUE_RECEIVE_RATE_MIN") as caught:
        await received([b"x" * size] * 10_000, pause_s=pause_s, limits=body_limits(**given))

    assert caught.value.status == 408
    assert loop.time() - start_s < 0.8


async def test_time_that_the_service_needs_is_not_the_clients() -> None:
    """A slow disk between two parts does not count against the rate."""
    request = a_request([b"x" * 1000] * 5, pause_s=0.001, headers={})
    size = 0
    async for part in receive_parts(request, body_limits()):
        size += len(part)
        await asyncio.sleep(0.1)  # writes to the disk

    assert size == 5000


@pytest.fixture
def slots() -> UploadSlots:
    """Return two slots, which an upload may lose after 50 ms."""
    return UploadSlots(count=2, rate_min=1000, safe_s=0.05)


async def _upload(slots: UploadSlots, *, rate: int, ended: list[int]) -> None:
    """Receive `rate` bytes each 10 ms until the slot is lost."""
    try:
        async with slots.slot() as transfer:
            while True:
                transfer.received += rate
                await asyncio.sleep(0.01)
    except ProblemError as error:
        ended.append(error.status)


async def test_the_slowest_upload_gives_its_slot_to_a_new_one(slots: UploadSlots) -> None:
    """A fast one keeps its slot, and the new one has to wait for it."""
    ended_slow: list[int] = []
    ended_fast: list[int] = []
    slow = asyncio.create_task(_upload(slots, rate=1, ended=ended_slow))
    fast = asyncio.create_task(_upload(slots, rate=1000, ended=ended_fast))
    await asyncio.sleep(0.1)
    async with slots.slot() as mine:
        mine.is_receiving = False
        await asyncio.sleep(0.06)
        with pytest.raises(ProblemError, match="too many concurrent uploads") as refused:
            async with slots.slot():
                pass
    fast.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fast
    await slow

    assert (ended_slow, ended_fast) == ([408], [])
    assert refused.value.status == 503


async def test_an_upload_keeps_its_slot_at_the_start(slots: UploadSlots) -> None:
    """Its rate is not known yet."""
    async with slots.slot(), slots.slot():
        with pytest.raises(ProblemError, match="too many concurrent uploads"):
            async with slots.slot():
                pass
    async with slots.slot():
        pass
