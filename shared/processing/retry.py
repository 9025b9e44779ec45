"""Retries a call with exponential backoff and jitter.

The delay doubles up to a cap, with a random share of up to half subtracted. A `retry_after_s` from
the other side is a lower bound.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from shared.clock import Clock
from shared.errors import RetryableError
from shared.processing.wait import wait_or_stop

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]
OnRetry = Callable[[Exception, float], None]  # the error, and the delay in seconds
_BACKOFF = random.Random()  # noqa: S311 - jitter, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Delays between attempts, and their number."""

    first_s: float = 1.0
    max_s: float = 60.0
    attempts_max: int | None = 8  #: including the first; None: no limit
    asked_max_s: float | None = None  #: longest delay after a Retry-After; None: no limit
    deadline_s: float | None = None  #: of all attempts together; None: no limit

    def delay_s(
        self, attempt: int, *, asked_s: float | None = None, chance: random.Random
    ) -> float:
        """Return the seconds to wait after attempt `attempt` (from 1) failed.

        `asked_s` is the other side's Retry-After: it is only lengthened, so that a thousand
        lanes with the same value do not retry at the same moment.
        """
        cap = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        jitter = chance.uniform(cap / 2, cap)
        if asked_s is None:
            return jitter
        delay_s = asked_s + chance.uniform(0, cap / 4)
        return delay_s if self.asked_max_s is None else min(delay_s, self.asked_max_s)

    def is_last(self, attempt: int) -> bool:
        """Return True if no attempt follows `attempt`."""
        return self.attempts_max is not None and attempt >= self.attempts_max

    def is_too_late(self, elapsed_s: float) -> bool:
        """Return True if an attempt that starts after `elapsed_s` is past the deadline."""
        return self.deadline_s is not None and elapsed_s > self.deadline_s


def _ignore(_error: Exception, _delay_s: float) -> None:
    """Report nothing."""


async def retrying(
    call: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    clock: Clock,
    on_retry: OnRetry = _ignore,
    errors: Errors = RetryableError,
    never: Errors = (),
    chance: random.Random = _BACKOFF,
) -> T:
    """Call until it succeeds; return its result. `on_retry` is called before each delay.

    Raises:
        Exception: the error of the last attempt; or one of `never`, or not of `errors`, at once.
    """
    attempt = 1
    while True:
        try:
            return await call()
        except never:
            raise
        except errors as error:
            if policy.is_last(attempt):
                raise
            delay_s = policy.delay_s(attempt, asked_s=_retry_after_s(error), chance=chance)
            on_retry(error, delay_s)
        await clock.sleep(delay_s)
        attempt += 1


async def restarting(
    call: Callable[[], Awaitable[object]],
    *,
    stop: asyncio.Event,
    policy: RetryPolicy,
    clock: Clock,
    on_retry: OnRetry = _ignore,
    errors: Errors = RetryableError,
    chance: random.Random = _BACKOFF,
) -> None:
    """Call again and again until `stop`; after an error with a growing delay.

    For background work that runs for as long as its servers are available. A call that ran
    longer than `policy.max_s` has recovered: the delays start again from `policy.first_s`.

    Raises:
        Exception: the error of the last attempt, or one that is not of `errors`.
    """
    attempt = 0
    while not stop.is_set():
        started_s = clock.monotonic()
        try:
            await call()
            attempt = 0
        except errors as error:
            attempt = 1 if clock.monotonic() - started_s > policy.max_s else attempt + 1
            if policy.is_last(attempt):
                raise
            delay_s = policy.delay_s(attempt, asked_s=_retry_after_s(error), chance=chance)
            on_retry(error, delay_s)
            await wait_or_stop(stop, delay_s, clock=clock)


def _retry_after_s(error: Exception) -> float | None:
    return error.retry_after_s if isinstance(error, RetryableError) else None
