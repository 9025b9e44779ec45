"""Silence: the right length of nothing, for runs without a music provider and for tests.

I/O: none; coding runs in a thread.
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
    """A `MusicProvider` whose clips are nothing to listen to, and nothing to continue from."""

    name = "silence"
    model: str | None = None
    makes_silence = True

    def __init__(self) -> None:
        warnings.warn(StandInWarning("music is silence: no provider was chosen"), stacklevel=2)

    @property
    def paused(self) -> str | None:
        """Nobody is ever refused."""
        return None

    async def check(self) -> None:
        """There is nobody to ask."""

    async def ready(self, *, within_s: float) -> None:
        """It is always one's turn."""

    async def submit(self, request: CompositionRequest) -> str:
        """The id that the request's own fields make."""
        return mp3.prediction_id(self.name, request)

    async def find(
        self,
        request: CompositionRequest,
        *,
        since: datetime | None = None,  # noqa: ARG002 - it is computed, not looked up
    ) -> str | None:
        """The same id as from `submit`."""
        return mp3.prediction_id(self.name, request)

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """`duration_s` seconds of silence; what the window sounded like plays no part."""
        if prediction_id != await self.submit(request):
            raise ProviderRejectedError(f"prediction {prediction_id} is not of this request")
        nothing = silence(request.duration_s * RATE_HZ)
        return Clip(
            data=await asyncio.to_thread(mp3.encode, nothing),
            content_type=mp3.CONTENT_TYPE,
            output_url=None,
            generation_s=0.0,
            cost_usd=0.0,
        )

    async def cancel(self, prediction_id: str) -> None:
        """Nothing runs that is not being collected."""

    def nudge(self, prediction_id: str) -> None:
        """Nobody waits for news here."""

    async def close(self) -> None:
        """Nothing is held open."""
