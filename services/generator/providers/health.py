"""Standing: whether the provider serves us, as `readyz` tells it.

While everyone is refused (no key, no credit) the generator is not ready, in the provider's own
words; its lanes go on asking. A question that takes longer than `readyz` may is not given up: it
is the one question in half a minute, and its answer counts for everyone.

I/O: the provider.
"""

import asyncio

from services.generator.providers import MusicProvider
from shared.errors import ProviderPausedError
from shared.telemetry.metrics import PROVIDER_PAUSED

ASK_S = 2.0  # below what a probe may take


class ProviderStanding:
    """Asks one provider."""

    def __init__(self, provider: MusicProvider) -> None:
        self._provider = provider
        self._asking: asyncio.Task[None] | None = None
        paused = PROVIDER_PAUSED.labels(provider.name)
        paused.set_function(lambda: provider.paused is not None)

    async def ask(self) -> None:
        """Return if the provider serves us, as far as is known.

        Raises:
            ProviderPausedError: it refuses everyone.
            ProviderBusyError: it was asked whether it still does, and did not answer.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._provider.check())
        await asyncio.wait({self._asking}, timeout=ASK_S)
        if self._asking.done():
            self._asking.result()
        if self._provider.paused is not None:
            raise ProviderPausedError(f"paused: {self._provider.paused}")

    async def close(self) -> None:
        """Give up the question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
