"""What `readyz` hears of the provider."""

import asyncio
from dataclasses import dataclass

import pytest

from services.generator.providers.health import ProviderStanding
from services.generator.providers.silence import SilenceProvider
from shared.errors import ProviderBusyError, ProviderPausedError
from shared.storage import StandInWarning


@dataclass
class Refuser:
    """A provider that refuses everyone, and whose questions take their time."""

    paused: str | None = "Replicate wants credit: 402"
    name: str = "refuser"
    asked: int = 0
    answer: asyncio.Event | None = None
    error: Exception | None = None

    async def check(self) -> None:
        """Be asked."""
        self.asked += 1
        if self.answer is not None:
            await self.answer.wait()
        if self.error is not None:
            raise self.error


def _standing(provider: Refuser) -> ProviderStanding:
    return ProviderStanding(provider)  # type: ignore[arg-type]  # the part of the port it uses


async def test_a_provider_that_serves_passes() -> None:
    """Nothing is said."""
    with pytest.warns(StandInWarning):
        await ProviderStanding(SilenceProvider()).ask()


async def test_a_refusal_is_told_in_the_providers_words_although_it_is_not_time_to_ask() -> None:
    """The question is asked now and then, the answer holds meanwhile."""
    with pytest.raises(ProviderPausedError, match=r"^paused: Replicate wants credit: 402$"):
        await _standing(Refuser()).ask()


async def test_a_provider_that_does_not_answer_is_not_ready_either() -> None:
    """In the words of the question."""
    with pytest.raises(ProviderBusyError, match=r"^503$"):
        await _standing(Refuser(error=ProviderBusyError("503"))).ask()


async def test_a_slow_question_is_neither_given_up_nor_asked_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer ends the pause for everyone; cut off each time, it never would."""
    monkeypatch.setattr("services.generator.providers.health.ASK_S", 0.02)
    provider = Refuser(answer=asyncio.Event())
    standing = _standing(provider)
    for _ in range(3):
        with pytest.raises(ProviderPausedError):
            await standing.ask()
    assert provider.answer is not None
    provider.answer.set()
    provider.paused = None
    await standing.ask()

    assert provider.asked == 1
    await standing.close()


async def test_a_question_under_way_ends_with_the_service() -> None:
    """Nothing is left behind."""
    provider = Refuser(answer=asyncio.Event())
    standing = _standing(provider)
    asking = asyncio.create_task(standing.ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0)
    await standing.close()

    assert provider.asked == 1
