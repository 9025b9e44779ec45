"""Probing: whether a server we need answers, asked at most once in a while.

I/O: whatever the probe asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from shared.clock import Clock
from shared.errors import RetryableError

ANSWER_S = 3.0
AGAIN_S = 2.0  # however often readyz is asked


class Check(BaseModel):
    """One thing that was looked at."""

    ok: bool
    detail: str
    required: bool = Field(
        default=True, description="False: worth knowing, but this service works without it."
    )


class Ready(BaseModel):
    """Whether everything that is required is there."""

    ready: bool
    checks: dict[str, Check]
    figures: dict[str, int] = Field(default={}, description="How much is under way.")


@dataclass(kw_only=True)
class Probe:
    """Asks one server."""

    name: str
    call: Callable[[], Awaitable[None]]
    clock: Clock
    required: bool = True
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked_at: float | None = None
    _found: str | None = None

    async def problem(self) -> str | None:
        """What is wrong with the server; None: it answers."""
        async with self._lock:
            now = self.clock.monotonic()
            if self._asked_at is None or now - self._asked_at >= AGAIN_S:
                self._found = await self._ask()
                self._asked_at = self.clock.monotonic()
            return self._found

    async def check(self) -> Check:
        """The same, as it is told."""
        problem = await self.problem()
        return Check(ok=problem is None, detail=problem or "answers", required=self.required)

    async def _ask(self) -> str | None:
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
    """Everything asked, side by side, beside what is `known` already."""
    found = await asyncio.gather(*(probe.check() for probe in probes))
    named = zip((probe.name for probe in probes), found, strict=True)
    checks = {**(known or {}), **dict(named)}
    return Ready(
        ready=all(check.ok for check in checks.values() if check.required),
        checks=checks,
        figures=dict(figures or {}),
    )
