"""Checks the rate limit that all lanes of one key share."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest
from typing_extensions import override

from services.generator.providers.replicate.rate_limiter import PAUSE_S_MAX, RateLimiter
from shared.errors import ProviderBusyError, ProviderPausedError
from tests.fakes.clock import FakeClock

T = TypeVar("T")
_ROUNDS = 30  # of the loop, until no task can make progress


class QueuedClock(FakeClock):
    """A clock that advances to the next sleeper when no task can make progress."""

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
        """Advance the time until `work` is done; return its result."""
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
    """Return a clock that advances by itself."""
    return QueuedClock()


@pytest.fixture
def limiter(clock: QueuedClock) -> RateLimiter:
    """Return a limiter for one start per second and three predictions in flight."""
    return RateLimiter(clock=clock, starts_per_s=1, in_flight_max=3, forget_s=600, probe_s=30)


async def _starts(
    limiter: RateLimiter,
    clock: QueuedClock,
    count: int,
    *,
    lasts_s: float = 0.0,
    refuse: Callable[[float], float | None] = lambda _: None,
) -> list[tuple[float, str]]:
    """Start `count` predictions in as many lanes; return each try's time and outcome."""
    tried: list[tuple[float, str]] = []

    async def lane(name: str) -> None:
        await limiter.acquire(within_s=10_000)
        while (retry_after_s := refuse(clock.elapsed_s)) is not None:
            assert limiter.consume_permit()
            tried.append((clock.elapsed_s, "refused"))
            await clock.sleep(limiter.record_throttled(retry_after_s))
            await limiter.acquire(within_s=10_000)
        assert limiter.consume_permit()
        limiter.add_in_flight(name)
        limiter.record_accepted()
        tried.append((clock.elapsed_s, name))
        await clock.sleep(lasts_s)
        limiter.remove_in_flight(name)

    await clock.run(asyncio.gather(*(lane(f"p{n}") for n in range(count))))
    return tried


async def test_starts_come_one_by_one_in_request_order(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """One second apart."""
    assert await _starts(limiter, clock, 5) == [(n, f"p{n}") for n in range(5)]


async def test_no_more_than_the_maximum_is_in_flight(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """The fourth starts when the first has ended."""
    tried = await _starts(limiter, clock, 6, lasts_s=20)

    assert [at for at, _ in tried] == [0, 1, 2, 20, 21, 22]


async def test_a_pause_holds_for_every_lane(limiter: RateLimiter, clock: QueuedClock) -> None:
    """Queued lanes wait until it is over, and then start one by one."""
    retry_after_s = iter([7.0])
    tried = await _starts(
        limiter, clock, 4, refuse=lambda now: next(retry_after_s, None) if now >= 1 else None
    )

    assert tried[:2] == [(0, "p0"), (1, "refused")]
    assert all(at >= 8 for at, _ in tried[2:])
    gaps = [after[0] - before[0] for before, after in pairwise(tried[2:])]
    assert min(gaps) >= 1


async def test_the_interval_of_a_slow_key_is_learnt_from_few_throttles(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """Six per minute: a hundred lanes are throttled a few times, not a hundred times."""
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


async def test_a_throttle_without_a_delay_doubles_the_interval(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """The pause is as long, and the next starts keep that distance."""
    assert [limiter.record_throttled(None) for _ in range(2)] == [2, 4]

    tried = await _starts(limiter, clock, 3)

    assert [at for at, _ in tried] == [4, 8, 12]


async def test_an_unused_permit_expires_and_frees_its_slot(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """A lane that submits nothing does not block the others for long."""
    for _ in range(3):
        await clock.run(limiter.acquire(within_s=60))

    await clock.run(limiter.acquire(within_s=60))

    assert clock.elapsed_s >= 15
    clock.jump(15)
    assert not limiter.consume_permit()


async def test_a_lane_that_waits_too_long_is_busy(limiter: RateLimiter, clock: QueuedClock) -> None:
    """At any position in the queue; the lanes behind it move up."""
    limiter.pause(100)
    first = asyncio.ensure_future(limiter.acquire(within_s=200))
    with pytest.raises(ProviderBusyError):
        await clock.run(limiter.acquire(within_s=50))

    assert clock.elapsed_s == 50
    await clock.run(first)
    assert clock.elapsed_s == 100
    limiter.pause(100)
    with pytest.raises(ProviderBusyError) as caught:
        await clock.run(limiter.acquire(within_s=50))
    assert caught.value.retry_after_s == 100


async def test_a_lane_waits_to_the_end_of_its_time(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """A permit that is free exactly then is acquired."""
    limiter.pause(50)
    await clock.run(limiter.acquire(within_s=50))

    assert clock.elapsed_s == 50


async def test_a_lane_cancelled_in_the_queue_does_not_block_it(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """At any position."""
    limiter.pause(10)
    lanes = [asyncio.ensure_future(limiter.acquire(within_s=60)) for _ in range(4)]
    await asyncio.sleep(0)
    lanes[0].cancel()
    lanes[2].cancel()

    await clock.run(asyncio.gather(lanes[1], lanes[3]))

    assert clock.elapsed_s == 11


async def test_a_lane_cancelled_as_it_acquires_the_queue_releases_it(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """At every step of the event loop."""
    for steps in range(12):
        await limiter._queue.acquire()
        second = asyncio.ensure_future(limiter.acquire(within_s=60))
        for _ in range(5):
            await asyncio.sleep(0)
        limiter._queue.release()
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

        assert not limiter._queue.locked(), f"cancelled {steps} steps after it was next"
        clock.jump(60)


async def test_during_a_refusal_one_lane_probes_and_the_others_wait(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """One start per half minute is allowed; its success ends the refusal for every lane."""
    limiter.record_refusal("no credit", for_credit=True)
    with pytest.raises(ProviderPausedError, match="no credit") as caught:
        await limiter.acquire(within_s=60)
    assert caught.value.retry_after_s == 30
    clock.jump(30)

    await clock.run(limiter.acquire(within_s=60))
    with pytest.raises(ProviderPausedError):
        await limiter.acquire(within_s=60)
    limiter.record_response()  # a readable list does not prove credit
    assert limiter.refusal == "no credit"
    limiter.record_accepted()

    await clock.run(limiter.acquire(within_s=60))
    assert limiter.refusal is None


async def test_an_error_seen_by_many_lanes_counts_once(limiter: RateLimiter) -> None:
    """The pause grows per error, not per lane."""
    assert [limiter.record_error() for _ in range(50)] == [1] * 50


async def test_repeated_errors_make_longer_pauses(limiter: RateLimiter, clock: QueuedClock) -> None:
    """Up to half a minute; a response resets the pause."""
    pauses = []
    for _ in range(8):
        pauses.append(limiter.record_error())
        clock.jump(pauses[-1])
    limiter.record_response()

    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert limiter.record_error() == 1


async def test_a_prediction_without_a_report_expires(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """A lane that moved away does not occupy a slot forever."""
    for name in ("a", "b", "c"):
        limiter.add_in_flight(name)

    await clock.run(limiter.acquire(within_s=3600))

    assert 600 <= clock.elapsed_s <= 602


async def test_a_lane_cancelled_in_the_queue_does_not_release_another_lanes_turn(
    limiter: RateLimiter,
) -> None:
    """The lane at its head keeps it."""
    await limiter._queue.acquire()
    waiting = asyncio.ensure_future(limiter.acquire(within_s=60))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert limiter._queue.locked()


async def test_the_interval_is_shortened_after_ten_accepted_starts(limiter: RateLimiter) -> None:
    """By a tenth, and never below that of the settings."""
    limiter.record_throttled(None)
    intervals = []
    for _ in range(100):
        limiter.record_accepted()
        intervals.append(limiter._interval_s)

    assert intervals[8:10] == [2.0, pytest.approx(1.8)]
    assert intervals[18:20] == pytest.approx([1.8, 1.62])
    assert intervals[-1] == 1.0


async def test_a_refused_key_is_probed_once_per_interval(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """By one lane; missing credit is found by a start only."""
    limiter.record_refusal("no key")
    probes = [limiter.take_probe()]
    for _ in range(2):
        clock.jump(30)
        probes += [limiter.take_probe(), limiter.take_probe()]

    assert probes == [False, True, False, True, False]
    limiter.record_refusal("no credit", for_credit=True)
    clock.jump(30)
    assert not limiter.take_probe()


async def test_a_prediction_expires_at_the_end_of_its_time(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """Its slot is free from then on."""
    for name in ("a", "b", "c"):
        limiter.add_in_flight(name)
    clock.jump(600)

    await clock.run(limiter.acquire(within_s=0))

    assert clock.elapsed_s == 600


async def test_a_waiting_lane_starts_as_soon_as_a_prediction_ends(
    limiter: RateLimiter, clock: QueuedClock
) -> None:
    """It does not wait for its next check."""
    for name in ("a", "b", "c"):
        limiter.add_in_flight(name)

    async def end_one() -> None:
        await clock.sleep(0.25)
        limiter.remove_in_flight("a")

    await clock.run(asyncio.gather(limiter.acquire(within_s=60), end_one()))

    assert clock.elapsed_s == 0.25


def test_no_answer_stops_the_lanes_for_longer_than_five_minutes(limiter: RateLimiter) -> None:
    """`Retry-After: 999999999`, in any of its ways in."""
    pauses = [
        limiter.record_throttled(999_999_999.0),
        limiter.record_error(999_999_999.0),
        limiter.pause(999_999_999.0),
    ]

    assert pauses == [PAUSE_S_MAX] * 3
    assert limiter._wait_s() <= PAUSE_S_MAX == 300
