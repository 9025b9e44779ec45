"""Reports the provider's availability to `readyz`.

While the provider rejects all requests (no key, no credit), the generator is not ready and
reports the provider's own reason; its lanes keep retrying. A check that takes longer than a probe
may take is not cancelled: the provider is checked at most every half minute, and the result
counts for every lane.

I/O: the provider.
"""

import asyncio

from services.generator.providers import MusicProvider
from shared.errors import ProviderPausedError
from shared.telemetry.metrics import PROVIDER_PAUSED

CHECK_TIMEOUT_S = 2.0  # shorter than a probe's timeout


class ProviderHealth:
    """Checks one provider."""

    def __init__(self, provider: MusicProvider, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._provider = provider
        self._timeout_s = timeout_s
        self._check_task: asyncio.Task[None] | None = None
        paused = PROVIDER_PAUSED.labels(provider.name)
        paused.set_function(lambda: provider.paused is not None)

    async def check(self) -> None:
        """Return if the provider accepts requests, as far as is known.

        Raises:
            ProviderPausedError: it rejects all requests.
            ProviderBusyError: it did not answer the check whether it still does.
        """
        if self._check_task is None or self._check_task.done():
            self._check_task = asyncio.create_task(self._provider.check())
        await asyncio.wait({self._check_task}, timeout=self._timeout_s)
        if self._check_task.done():
            self._check_task.result()
        if self._provider.paused is not None:
            raise ProviderPausedError(f"paused: {self._provider.paused}")

    async def close(self) -> None:
        """Cancel a check that is in progress."""
        if self._check_task is not None:
            self._check_task.cancel()
            await asyncio.wait({self._check_task})
