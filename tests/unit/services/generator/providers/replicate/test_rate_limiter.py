"""Limiter: one pace for one key, whoever asks."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest
from typing_extensions import override

from services.generator.providers.replicate.rate_limiter import Limiter
from shared.errors import ProviderBusyError, ProviderPausedError
from tests.fakes.clock import FakeClock

T = TypeVar("T")
_ROUNDS = 30  # of the loop, until everyone who can do something has done it


class QueuedClock(FakeClock):
    """A clock whose time goes to the next sleeper as soon as nobody has anything to do."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    @override
    async def sleep(self, seconds: float) -> None:
        self._count += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed_s + seconds, self._count, woken))
        await woken

    async def run(self, work: Awaitable[T]) -> T:
        """Let time pass until `work` is done."""
        task = asyncio.ensure_future(work)
        while True:
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
            if task.done():
                return task.result()
            while self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            at_s, _, woken = heapq.heappop(self._sleepers)
            self.elapsed_s = max(self.elapsed_s, at_s)
            woken.set_result(None)


@pytest.fixture
def clock() -> QueuedClock:
    """Time that passes by itself."""
    return QueuedClock()


@pytest.fixture
def limiter(clock: QueuedClock) -> Limiter:
    """One start a second, three under way."""
    return Limiter(clock=clock, starts_per_s=1, in_flight_max=3, forget_s=600, probe_s=30)


async def _starts(
    limiter: Limiter,
    clock: QueuedClock,
    count: int,
    *,
    lasts_s: float = 0.0,
    refuse: Callable[[float], float | None] = lambda _: None,
) -> list[tuple[float, str]]:
    """`count` lanes that start one prediction each; when each start was tried, and how it went."""
    tried: list[tuple[float, str]] = []

    async def lane(name: str) -> None:
        await limiter.turn(within_s=10_000)
        while (asked_s := refuse(clock.elapsed_s)) is not None:
            assert limiter.use_turn()
            tried.append((clock.elapsed_s, "refused"))
            await clock.sleep(limiter.throttled(asked_s))
            await limiter.turn(within_s=10_000)
        assert limiter.use_turn()
        limiter.started(name)
        limiter.accepted()
        tried.append((clock.elapsed_s, name))
        await clock.sleep(lasts_s)
        limiter.ended(name)

    await clock.run(asyncio.gather(*(lane(f"p{n}") for n in range(count))))
    return tried


async def test_starts_come_one_by_one_in_the_order_in_which_they_were_asked_for(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """A second lies between two of them."""
    assert await _starts(limiter, clock, 5) == [(n, f"p{n}") for n in range(5)]


async def test_no_more_than_the_allowed_number_is_under_way(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """The fourth begins when the first has ended."""
    tried = await _starts(limiter, clock, 6, lasts_s=20)

    assert [at for at, _ in tried] == [0, 1, 2, 20, 21, 22]


async def test_a_pause_holds_for_everyone(limiter: Limiter, clock: QueuedClock) -> None:
    """Those who stand in line wait it out as well, and come one by one after it."""
    asked = iter([7.0])
    tried = await _starts(
        limiter, clock, 4, refuse=lambda now: next(asked, None) if now >= 1 else None
    )

    assert tried[:2] == [(0, "p0"), (1, "refused")]
    assert all(at >= 8 for at, _ in tried[2:])
    gaps = [after[0] - before[0] for before, after in pairwise(tried[2:])]
    assert min(gaps) >= 1


async def test_the_interval_of_a_slow_key_is_learnt_from_few_refusals(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """Six a minute: a hundred lanes are refused a few times, not a hundred times."""
    free_at = 0.0

    def bucket(now: float) -> float | None:
        nonlocal free_at
        if now < free_at:
            return free_at - now
        free_at = now + 10
        return None

    tried = await _starts(limiter, clock, 100, refuse=bucket)

    refused = sum(how == "refused" for _, how in tried)
    assert refused <= 12
    assert tried[-1][0] <= 990 * 1.15


async def test_a_turn_that_is_not_used_is_lost_and_makes_room(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """Whoever found that there was nothing to submit holds nobody up for long."""
    for _ in range(3):
        await clock.run(limiter.turn(within_s=60))

    await clock.run(limiter.turn(within_s=60))

    assert clock.elapsed_s >= 15
    clock.jump(15)
    assert not limiter.use_turn()


async def test_who_waits_too_long_in_line_is_told_to_come_again(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """Whether it stands first or further back; those behind it move up."""
    limiter.pause(100)
    first = asyncio.ensure_future(limiter.turn(within_s=200))
    with pytest.raises(ProviderBusyError):
        await clock.run(limiter.turn(within_s=50))

    assert clock.elapsed_s == 50
    await clock.run(first)
    assert clock.elapsed_s == 100
    limiter.pause(100)
    with pytest.raises(ProviderBusyError) as caught:
        await clock.run(limiter.turn(within_s=50))
    assert caught.value.retry_after_s == 100


async def test_a_lane_that_is_cancelled_in_line_does_not_block_it(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """Wherever it stood."""
    limiter.pause(10)
    lanes = [asyncio.ensure_future(limiter.turn(within_s=60)) for _ in range(4)]
    await asyncio.sleep(0)
    lanes[0].cancel()
    lanes[2].cancel()

    await clock.run(asyncio.gather(lanes[1], lanes[3]))

    assert clock.elapsed_s == 11


async def test_a_lane_that_is_cancelled_as_its_turn_comes_hands_it_on(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """At whichever step of the loop that happens."""
    for steps in range(12):
        await limiter._line.acquire()
        second = asyncio.ensure_future(limiter.turn(within_s=60))
        for _ in range(5):
            await asyncio.sleep(0)
        limiter._line.release()
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

        assert not limiter._line.locked(), f"cancelled {steps} steps after its turn came"
        clock.jump(60)


async def test_while_everyone_is_refused_one_lane_asks_and_the_others_stand_back(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """Every half a minute one start is let through; its success is everyone's."""
    limiter.refused("no credit", for_money=True)
    with pytest.raises(ProviderPausedError, match="no credit") as caught:
        await limiter.turn(within_s=60)
    assert caught.value.retry_after_s == 30
    clock.jump(30)

    await clock.run(limiter.turn(within_s=60))
    with pytest.raises(ProviderPausedError):
        await limiter.turn(within_s=60)
    limiter.answered()  # that somebody reads a list says nothing about money
    assert limiter.refusal == "no credit"
    limiter.accepted()

    await clock.run(limiter.turn(within_s=60))
    assert limiter.refusal is None


async def test_one_trouble_seen_by_many_lanes_counts_once(limiter: Limiter) -> None:
    """The pause grows from trouble to trouble, not from lane to lane."""
    assert [limiter.troubled() for _ in range(50)] == [1] * 50


async def test_troubles_that_go_on_make_longer_pauses(limiter: Limiter, clock: QueuedClock) -> None:
    """Up to half a minute; an answer begins anew."""
    pauses = []
    for _ in range(8):
        pauses.append(limiter.troubled())
        clock.jump(pauses[-1])
    limiter.answered()

    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert limiter.troubled() == 1


async def test_a_prediction_nobody_reported_on_is_forgotten(
    limiter: Limiter, clock: QueuedClock
) -> None:
    """A lane that went away does not take its place with it for ever."""
    for name in ("a", "b", "c"):
        limiter.started(name)

    await clock.run(limiter.turn(within_s=3600))

    assert 600 <= clock.elapsed_s <= 602
