"""Returns silence of the requested length, for runs without a music provider and for tests.

I/O: none; encoding runs in a thread.
"""

import asyncio
import warnings
from datetime import datetime

from services.generator.providers import Clip, CompositionRequest, mp3
from services.generator.providers.synth.voices import RATE_HZ
from shared.errors import ProviderRejectedError
from shared.media.samples import silence
from shared.storage import StandInWarning


class SilenceProvider:
    """A `MusicProvider` whose clips are silent and are not continued."""

    name = "silence"
    model: str | None = None
    makes_silence = True

    def __init__(self) -> None:
        warnings.warn(StandInWarning("music is silence: no provider was chosen"), stacklevel=2)

    @property
    def paused(self) -> str | None:
        """Return None: this provider is never paused."""
        return None

    async def check(self) -> None:
        """Do nothing: there is no remote service."""

    async def ready(self, *, within_s: float) -> None:
        """Return at once: there is no rate limit."""

    async def submit(self, request: CompositionRequest) -> str:
        """Return the id derived from the request."""
        return mp3.prediction_id(self.name, request)

    async def find(
        self,
        request: CompositionRequest,
        *,
        since: datetime | None = None,  # noqa: ARG002 - the id is derived, not searched
    ) -> str | None:
        """Return the same id as `submit`."""
        return mp3.prediction_id(self.name, request)

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Return `duration_s` seconds of silence, whatever the window contains."""
        if prediction_id != await self.submit(request):
            raise ProviderRejectedError(
                f"prediction {prediction_id} does not belong to this request"
            )
        audio = silence(request.duration_s * RATE_HZ)
        return Clip(
            data=await asyncio.to_thread(mp3.encode, audio),
            content_type=mp3.CONTENT_TYPE,
            output_url=None,
            generation_s=0.0,
            cost_usd=0.0,
        )

    async def cancel(self, prediction_id: str) -> None:
        """Do nothing: a prediction only runs while it is collected."""

    def nudge(self, prediction_id: str) -> None:
        """Do nothing: nothing is polled."""

    async def close(self) -> None:
        """Do nothing: no resource is held open."""
