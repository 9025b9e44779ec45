"""Stands for a provider that this generator does not have: its runs wait until one has it.

A run keeps the provider that it started with, so that a free run never costs money and a paid one
never changes its music. Its scenes wait, as for a missing key, and the status shows the reason.

I/O: none.
"""

from datetime import datetime
from typing import NoReturn

from typing_extensions import override

from services.generator.providers import Clip, CompositionRequest, MusicProvider
from shared.errors import ProviderPausedError

RETRY_S = 30.0  # only a restart with other settings ends the wait


class AbsentProvider(MusicProvider):
    """A `MusicProvider` that is always paused."""

    model: str | None = None
    makes_silence = False

    def __init__(self, name: str, *, reason: str) -> None:
        self.name = name
        self._reason = reason

    @property
    @override
    def paused(self) -> str | None:
        """Return why it composes nothing."""
        return self._reason

    @override
    async def check(self) -> None:
        """Raise: it is absent."""
        self._refuse()

    @override
    async def ready(self, *, within_s: float) -> None:
        """Raise: it is absent."""
        self._refuse()

    @override
    async def submit(self, request: CompositionRequest) -> str:
        """Raise: it is absent; nothing was started."""
        self._refuse()

    @override
    async def find(
        self, request: CompositionRequest, *, since: datetime | None = None
    ) -> str | None:
        """Raise: only the provider itself knows."""
        self._refuse()

    @override
    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Raise: only the provider itself has the clip."""
        self._refuse()

    @override
    async def cancel(self, prediction_id: str) -> None:
        """Do nothing: nothing runs here."""

    @override
    def nudge(self, prediction_id: str) -> None:
        """Do nothing: nothing is polled."""

    @override
    async def close(self) -> None:
        """Do nothing: no resource is held open."""

    def _refuse(self) -> NoReturn:
        raise ProviderPausedError(self._reason, retry_after_s=RETRY_S)
