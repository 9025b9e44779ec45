"""Restarts failed services, a limited number of times in a row.

A service that has run long enough starts with a failure count of zero. One that fails too often
in a row stops the stack with its reason, instead of a crash loop.

Units: seconds.
"""

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

from shared.clock import Clock
from shared.errors import SegueError, SettingsError
from shared.processing.retry import RetryPolicy
from shared.processing.wait import wait_or_stop
from shared.telemetry.log import Logger

STEADY_S = 60.0  # after so long without a failure, the count starts again at one
POLICY = RetryPolicy(first_s=0.5, max_s=8.0, attempts_max=5)


class RunService(Protocol):
    """`run` of a service's app, bound to its settings."""

    def __call__(self, *, stop: asyncio.Event, ready: asyncio.Event) -> Awaitable[None]:
        """Serve until `stop`; set `ready` once it works."""
        ...


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service of the stack, with its stop and ready events."""

    name: str
    run: RunService
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class ServiceFailedError(SegueError):
    """A service failed too often in a row."""

    def __init__(self, name: str, failures: int, problem: Exception) -> None:
        super().__init__(f"{name} failed {failures} times in a row, the last time: {problem!r}")
        self.name = name


async def keep_running(
    service: Service, *, clock: Clock, log: Logger, policy: RetryPolicy = POLICY
) -> None:
    """Run `service` until its `stop`; restart it after failures.

    Raises:
        ServiceFailedError: it failed `policy.attempts_max` times in a row.
        SettingsError: its settings are wrong; a restart cannot help.
    """
    failures = 0
    chance = random.Random(service.name)  # noqa: S311 - spreads restarts, no secret
    while not service.stop.is_set():
        started_s = clock.monotonic()
        problem = await _run_once(service)
        if problem is None:
            return
        failures = 1 if clock.monotonic() - started_s > STEADY_S else failures + 1
        log.error(
            "service failed",
            action="service.failed",
            name=service.name,
            failures=failures,
            reason=repr(problem),
            exc_info=None if isinstance(problem, SegueError) else problem,
        )
        if policy.is_last(failures):
            raise ServiceFailedError(service.name, failures, problem) from problem
        await wait_or_stop(service.stop, policy.delay_s(failures, chance=chance), clock=clock)


async def _run_once(service: Service) -> Exception | None:
    """Run the service once; return its error, None if it stopped on request."""
    try:
        await service.run(stop=service.stop, ready=service.ready)
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001 - a restart may cure any failure
        return error
    return None if service.stop.is_set() else SegueError("it ended by itself")
