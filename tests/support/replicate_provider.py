"""The Replicate provider on the fake Replicate, ready to be used, and a clock that runs ahead."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from replicate_server import EmulatorSettings, ReplicateEmulator
from replicate_server.model.composer import Compose
from services.generator.providers.replicate.factory import build_replicate
from services.generator.providers.replicate.provider import ReplicateProvider, WebhookUrl
from services.generator.providers.replicate.settings import ReplicateSettings
from services.generator.providers.synth.provider import compose as composed_by_synth
from shared.clock import Clock, SystemClock
from shared.security.signed_links import LinkSettings
from shared.storage import ObjectStore, StandInWarning
from shared.telemetry.log import logger_of


class FastClock:
    """A `Clock` on which everything takes `factor` times less than it says."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._begun = time.monotonic()
        self._began = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return (time.monotonic() - self._begun) * self._factor

    def now(self) -> datetime:
        """The moment, UTC."""
        return self._began + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        """Wait, for less."""
        await asyncio.sleep(seconds / self._factor)


@asynccontextmanager
async def a_fake(
    work_s: float, *, compose: Compose = composed_by_synth
) -> AsyncIterator[ReplicateEmulator]:
    """A fake Replicate that works for `work_s` on each prediction."""
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=work_s), compose=compose)
    async with fake as started:
        yield started


def account_of(fake: ReplicateEmulator) -> dict[str, Any]:
    """What services are told to work with an account of it, at a pace for tests."""
    return {
        "MUSIC_PROVIDER": "",
        "REPLICATE_API_KEY": fake.token,
        "REPLICATE_BASE_URL": fake.base_url,
        "SEGUE_REPLICATE_STARTS_PER_S": "10",
        "SEGUE_REPLICATE_POLL_FIRST_S": "0.2",
    }


@dataclass(frozen=True, kw_only=True)
class ReplicateFixture:
    """Both ends of the line."""

    fake: ReplicateEmulator
    provider: ReplicateProvider
    clock: Clock


@asynccontextmanager
async def replicate_fixture(
    store: ObjectStore,
    *,
    clock: Clock | None = None,
    fake: EmulatorSettings | None = None,
    compose: Compose = composed_by_synth,
    public_base_url: str | None = None,
    webhook: WebhookUrl | None = None,
    **settings: Any,
) -> AsyncIterator[ReplicateFixture]:
    """A provider that talks to a fake of its own; `settings` are the provider's."""
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        server = ReplicateEmulator(
            fake or EmulatorSettings(work_s=0.0), clock=clock, compose=compose
        )
    async with server:
        provider = build_replicate(
            ReplicateSettings(key=server.token, base_url=server.base_url, **settings),
            links=LinkSettings(keys="k" * 16, public_base_url=public_base_url),
            store=store,
            clock=clock or SystemClock(),
            log=logger_of("test"),
            webhook=webhook,
        )
        try:
            yield ReplicateFixture(fake=server, provider=provider, clock=clock or SystemClock())
        finally:
            await provider.close()
