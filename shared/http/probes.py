"""Probes: check whether a required server answers, at most every two seconds.

I/O: whatever the probe calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from shared.clock import Clock
from shared.errors import RetryableError

ANSWER_S = 3.0
CACHE_S = 2.0  # a result is reused for this long


class Check(BaseModel):
    """The result of one check."""

    ok: bool
    detail: str
    required: bool = Field(
        default=True, description="False: informational; the service works without it."
    )


class Ready(BaseModel):
    """Whether every required check passes."""

    ready: bool
    checks: dict[str, Check]
    figures: dict[str, int] = Field(default={}, description="Current workload.")


@dataclass(kw_only=True)
class Probe:
    """Calls one server and caches the result."""

    name: str
    call: Callable[[], Awaitable[None]]
    clock: Clock
    required: bool = True
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _called_at: float | None = None
    _problem: str | None = None

    async def problem(self) -> str | None:
        """Return why the server is unavailable; None if it answers."""
        async with self._lock:
            now = self.clock.monotonic()
            if self._called_at is None or now - self._called_at >= CACHE_S:
                self._problem = await self._call()
                self._called_at = self.clock.monotonic()
            return self._problem

    async def check(self) -> Check:
        """Return the result as a check."""
        problem = await self.problem()
        return Check(ok=problem is None, detail=problem or "answers", required=self.required)

    async def _call(self) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.call()
        except TimeoutError:
            return f"no answer within {ANSWER_S:g} s"
        except RetryableError as error:
            return str(error)
        return None


async def readiness(
    probes: Sequence[Probe],
    *,
    known: Mapping[str, Check] | None = None,
    figures: Mapping[str, int] | None = None,
) -> Ready:
    """Return the results of all probes, run concurrently, and the `known` checks."""
    probes = tuple(probes)  # a service that is starting adds probes meanwhile
    results = await asyncio.gather(*(probe.check() for probe in probes))
    named = zip((probe.name for probe in probes), results, strict=True)
    checks = {**(known or {}), **dict(named)}
    return Ready(
        ready=all(check.ok for check in checks.values() if check.required),
        checks=checks,
        figures=dict(figures or {}),
    )
