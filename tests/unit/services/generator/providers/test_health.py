"""Checks that `ProviderHealth` reports the provider's availability to `readyz`."""

import asyncio
from dataclasses import dataclass

import pytest

from services.generator.providers.health import ProviderHealth
from services.generator.providers.silence import SilenceProvider
from shared.errors import ProviderBusyError, ProviderPausedError
from shared.storage import StandInWarning


@dataclass
class PausedProvider:
    """A provider that rejects all requests, and whose check can be slow."""

    paused: str | None = "Replicate wants credit: 402"
    name: str = "paused"
    checks: int = 0
    answer: asyncio.Event | None = None
    error: Exception | None = None

    async def check(self) -> None:
        """Count the check, wait for `answer` and raise `error`."""
        self.checks += 1
        if self.answer is not None:
            await self.answer.wait()
        if self.error is not None:
            raise self.error


def _health(provider: PausedProvider, *, timeout_s: float = 2.0) -> ProviderHealth:
    # the part of the port that it uses
    return ProviderHealth(provider, timeout_s=timeout_s)  # type: ignore[arg-type]


async def test_an_available_provider_passes() -> None:
    """The check raises nothing."""
    with pytest.warns(StandInWarning):
        await ProviderHealth(SilenceProvider()).check()


async def test_a_paused_provider_is_reported_with_its_own_reason() -> None:
    """Also between two checks: the last result counts until then."""
    with pytest.raises(ProviderPausedError, match=r"^paused: Replicate wants credit: 402$"):
        await _health(PausedProvider()).check()


async def test_a_provider_that_does_not_answer_is_not_ready() -> None:
    """The check raises the provider's error."""
    with pytest.raises(ProviderBusyError, match=r"^503$"):
        await _health(PausedProvider(error=ProviderBusyError("503"))).check()


async def test_a_slow_check_is_neither_cancelled_nor_repeated() -> None:
    """Its result ends the pause; cancelled at each probe, it never would."""
    provider = PausedProvider(answer=asyncio.Event())
    health = _health(provider, timeout_s=0.02)
    for _ in range(3):
        with pytest.raises(ProviderPausedError):
            await health.check()
    assert provider.answer is not None
    provider.answer.set()
    provider.paused = None
    await health.check()

    assert provider.checks == 1
    await health.close()


async def test_close_cancels_a_check_in_progress() -> None:
    """No task remains."""
    provider = PausedProvider(answer=asyncio.Event())
    health = _health(provider)
    checking = asyncio.create_task(health.check())
    await asyncio.sleep(0)
    checking.cancel()
    await asyncio.sleep(0)
    await health.close()

    assert provider.checks == 1
