"""Delays grow, are capped and jittered; retried calls end with a result, an error or a stop."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from shared.errors import RetryableError
from shared.processing.retry import RetryPolicy, restarting, retrying
from tests.fakes.clock import FakeClock

POLICY = RetryPolicy(first_s=1.0, max_s=60.0)
THREE_ATTEMPTS = RetryPolicy(first_s=1.0, max_s=60.0, attempts_max=3)
NO_LIMIT = RetryPolicy(first_s=1.0, max_s=8.0, attempts_max=None)


@pytest.mark.parametrize(
    ("attempt", "cap_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (5000, 60.0)]
)
def test_the_delay_doubles_up_to_its_cap(attempt: int, cap_s: float) -> None:
    """Jitter subtracts at most half of it."""
    chance = random.Random(1)
    delays = [POLICY.delay_s(attempt, chance=chance) for _ in range(200)]

    assert cap_s / 2 <= min(delays) <= max(delays) <= cap_s
    assert max(delays) - min(delays) > cap_s / 4, "a thousand lanes must not retry together"


@given(requested_s=st.floats(0, 3600), attempt=st.integers(1, 100), seed=st.integers())
def test_a_requested_delay_is_never_shortened(requested_s: float, attempt: int, seed: int) -> None:
    """It is lengthened by at most a quarter of the policy's own delay."""
    delay_s = POLICY.delay_s(attempt, asked_s=requested_s, chance=random.Random(seed))

    assert requested_s <= delay_s <= requested_s + POLICY.max_s / 4


def failing(
    errors: list[Exception], then: Callable[[], None] = lambda: None
) -> Callable[[], Awaitable[str]]:
    """Return a call that raises `errors` one after the other, then calls `then` and succeeds."""
    left = iter(errors)

    async def call() -> str:
        for error in left:
            raise error
        then()
        return "result"

    return call


async def test_retrying_returns_the_result_of_the_first_successful_call() -> None:
    """Each failed attempt is reported with the delay that follows it."""
    clock, retries = FakeClock(), list[tuple[str, float]]()
    call = failing([RetryableError("first"), RetryableError("second", retry_after_s=30)])

    result = await retrying(
        call,
        policy=THREE_ATTEMPTS,
        clock=clock,
        on_retry=lambda error, delay_s: retries.append((str(error), delay_s)),
    )

    assert result == "result"
    assert retries == [("first", clock.slept[0]), ("second", clock.slept[1])]
    assert clock.slept[0] <= 1.0
    assert clock.slept[1] >= 30


async def test_retrying_raises_the_error_of_the_last_attempt() -> None:
    """Without a further delay."""
    clock = FakeClock()
    with pytest.raises(RetryableError, match="third"):
        await retrying(
            failing([RetryableError(name) for name in ("first", "second", "third", "fourth")]),
            policy=THREE_ATTEMPTS,
            clock=clock,
        )

    assert len(clock.slept) == 2


async def test_retrying_without_a_limit_continues_until_success() -> None:
    """Every delay stays below the cap."""
    clock = FakeClock()
    call = failing([RetryableError("busy")] * 50)

    assert await retrying(call, policy=NO_LIMIT, clock=clock) == "result"
    assert len(clock.slept) == 50
    assert max(clock.slept) <= 8.0


async def test_an_error_of_another_type_is_not_retried() -> None:
    """It is raised at once."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="bug"):
        await retrying(failing([ValueError("bug")]), policy=NO_LIMIT, clock=clock)

    assert clock.slept == []


async def test_restarting_calls_again_after_an_error_until_stopped() -> None:
    """A call that returns without an error is called again at once."""
    clock, stop, retries = FakeClock(), asyncio.Event(), list[str]()
    call = failing([RetryableError("first"), RetryableError("second")], then=stop.set)

    await restarting(
        call,
        stop=stop,
        policy=NO_LIMIT,
        clock=clock,
        on_retry=lambda error, _delay_s: retries.append(str(error)),
    )

    assert retries == ["first", "second"]
    first_s, second_s = clock.slept
    assert first_s <= 1.0 <= second_s <= 2.0


async def test_restarting_ends_in_the_middle_of_a_delay_when_stopped() -> None:
    """The stop does not wait for the next attempt."""
    clock, stop = FakeClock(), asyncio.Event()

    await restarting(
        failing([RetryableError("busy")] * 99),
        stop=stop,
        policy=NO_LIMIT,
        clock=clock,
        on_retry=lambda _error, _delay_s: stop.set(),
    )

    assert len(clock.slept) <= 1


async def test_a_call_that_ran_for_long_starts_the_delays_from_the_beginning() -> None:
    """Its servers were available in between."""
    clock, stop, delays = FakeClock(), asyncio.Event(), list[float]()

    async def call() -> None:
        if len(delays) == 4:
            clock.jump(NO_LIMIT.max_s + 1)
        if len(delays) == 5:
            stop.set()
            return
        raise RetryableError("connection lost")

    await restarting(
        call,
        stop=stop,
        policy=NO_LIMIT,
        clock=clock,
        on_retry=lambda _error, delay_s: delays.append(delay_s),
    )

    assert delays[3] >= 4.0
    assert delays[4] <= 1.0


class LongestDelay(random.Random):
    """Draws the upper bound, so that the delays are exact."""

    @override
    def uniform(self, a: float, b: float) -> float:
        return b


async def test_a_call_that_ran_for_exactly_the_longest_delay_has_not_recovered() -> None:
    """Only a longer one starts the delays from the beginning."""
    clock, stop, delays = FakeClock(), asyncio.Event(), list[float]()

    async def call() -> None:
        if len(delays) == 3:
            stop.set()
            return
        clock.jump(NO_LIMIT.max_s)
        raise RetryableError("connection lost")

    await restarting(
        call,
        stop=stop,
        policy=NO_LIMIT,
        clock=clock,
        on_retry=lambda _error, delay_s: delays.append(delay_s),
        chance=LongestDelay(),
    )

    assert delays == [1.0, 2.0, 4.0]


async def test_restarting_raises_the_error_of_the_last_attempt() -> None:
    """A policy may limit the number of consecutive failures."""
    with pytest.raises(RetryableError, match="third"):
        await restarting(
            failing([RetryableError(name) for name in ("first", "second", "third")]),
            stop=asyncio.Event(),
            policy=THREE_ATTEMPTS,
            clock=FakeClock(),
        )
