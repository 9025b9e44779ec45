"""The Replicate provider on an emulator, and a clock that runs faster."""

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
from shared.clock import Clock, SystemClock
from shared.media.sandbox import MediaSandbox
from shared.security.signed_links import LinkSettings
from shared.settings import MediaSettings
from shared.storage import ObjectStore, StandInWarning
from shared.telemetry.log import logger_of
from tests.support.composed_clips import compose_cached


class FastClock:
    """A `Clock` that runs `factor` times as fast as real time."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._start_s = time.monotonic()
        self._start = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        """Return the seconds since the clock was created."""
        return (time.monotonic() - self._start_s) * self._factor

    def now(self) -> datetime:
        """Return the current time, UTC."""
        return self._start + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of this clock."""
        await asyncio.sleep(seconds / self._factor)


@asynccontextmanager
async def a_fake(
    work_s: float, *, compose: Compose = compose_cached
) -> AsyncIterator[ReplicateEmulator]:
    """Start an emulator that works for `work_s` on each prediction."""
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        fake = ReplicateEmulator(EmulatorSettings(work_s=work_s), compose=compose)
    async with fake as started:
        yield started


def account_of(fake: ReplicateEmulator) -> dict[str, Any]:
    """Return the environment of services that use the emulator, with short intervals."""
    return {
        "MUSIC_PROVIDER": "",
        "REPLICATE_API_KEY": fake.token,
        "REPLICATE_BASE_URL": fake.base_url,
        "SEGUE_REPLICATE_STARTS_PER_S": "10",
        "SEGUE_REPLICATE_POLL_FIRST_S": "0.2",
    }


@dataclass(frozen=True, kw_only=True)
class ReplicateFixture:
    """An emulator, the provider that uses it, and their clock."""

    fake: ReplicateEmulator
    provider: ReplicateProvider
    clock: Clock


@asynccontextmanager
async def replicate_fixture(
    store: ObjectStore,
    *,
    clock: Clock | None = None,
    fake: EmulatorSettings | None = None,
    compose: Compose = compose_cached,
    public_base_url: str | None = None,
    webhook: WebhookUrl | None = None,
    **settings: Any,
) -> AsyncIterator[ReplicateFixture]:
    """Start an emulator and a provider that uses it; `settings` are the provider's."""
    with warnings.catch_warnings(action="ignore", category=StandInWarning):
        server = ReplicateEmulator(
            fake or EmulatorSettings(work_s=0.0), clock=clock, compose=compose
        )
    async with server:
        provider = build_replicate(
            ReplicateSettings(key=server.token, base_url=server.base_url, **settings),
            links=LinkSettings(keys="k" * 16, public_base_url=public_base_url),
            store=store,
            sandbox=MediaSandbox(MediaSettings()),
            clock=clock or SystemClock(),
            log=logger_of("test"),
            webhook=webhook,
        )
        try:
            yield ReplicateFixture(fake=server, provider=provider, clock=clock or SystemClock())
        finally:
            await provider.close()
