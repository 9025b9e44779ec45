"""Supervise: keep a service running; after a failure start it again, but not for ever.

A service that has run steadily for a while starts with a clean record. One that fails again and
again is given up, and the stack stops with its reason: a crash loop is never a policy.

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

STEADY_S = 60.0  # after so long without a failure, the next one is the first
POLICY = RetryPolicy(first_s=0.5, max_s=8.0, attempts_max=5)


class Run(Protocol):
    """A service's door with its settings already given."""

    def __call__(self, *, stop: asyncio.Event, ready: asyncio.Event) -> Awaitable[None]:
        """Serve until `stop`; set `ready` once it works."""
        ...


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service of the stack: its door, and the events to talk to it."""

    name: str
    run: Run
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class ServiceFailedError(SegueError):
    """A service failed so often in a row that it was given up."""

    def __init__(self, name: str, failures: int, problem: Exception) -> None:
        super().__init__(f"{name} failed {failures} times in a row, the last time: {problem!r}")
        self.name = name


async def keep_running(
    service: Service, *, clock: Clock, log: Logger, policy: RetryPolicy = POLICY
) -> None:
    """Run `service` until its `stop`, starting it again after failures.

    Raises:
        ServiceFailedError: it failed `policy.attempts_max` times in a row.
        SettingsError: its settings are wrong; starting again cannot help.
    """
    failures = 0
    chance = random.Random(service.name)  # noqa: S311 - spreads restarts, no secret
    while not service.stop.is_set():
        started_s = clock.monotonic()
        problem = await _problem_of_a_run(service)
        if problem is None:
            return
        failures = 1 if clock.monotonic() - started_s > STEADY_S else failures + 1
        log.error(
            "a service failed",
            action="service.failed",
            name=service.name,
            failures=failures,
            reason=repr(problem),
            exc_info=None if isinstance(problem, SegueError) else problem,
        )
        if policy.is_last(failures):
            raise ServiceFailedError(service.name, failures, problem) from problem
        await wait_or_stop(service.stop, policy.delay_s(failures, chance=chance), clock=clock)


async def _problem_of_a_run(service: Service) -> Exception | None:
    """Run it once; what ended it, None if it was asked to end and did."""
    try:
        await service.run(stop=service.stop, ready=service.ready)
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, a restart may cure it
        return error
    return None if service.stop.is_set() else SegueError("it ended by itself")
