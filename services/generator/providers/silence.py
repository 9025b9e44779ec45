"""Returns silence of the requested length, for runs without a music provider and for tests.

I/O: none; encoding runs in a thread.
"""

import asyncio
import warnings

from services.generator.providers import Clip, CompositionRequest, mp3
from services.generator.providers.offline import OfflineProvider
from shared.media.samples import CLIP_RATE_HZ, silence
from shared.storage import StandInWarning


class SilenceProvider(OfflineProvider):
    """A `MusicProvider` whose clips are silent and are not continued."""

    name = "silence"
    model: str | None = None
    makes_silence = True

    def __init__(self) -> None:
        warnings.warn(StandInWarning("music is silence: no provider was chosen"), stacklevel=2)

    async def collect(self, prediction_id: str, request: CompositionRequest) -> Clip:
        """Return `duration_s` seconds of silence, whatever the window contains."""
        await self.check_id(prediction_id, request)
        audio = silence(request.duration_s * CLIP_RATE_HZ)
        return Clip(
            data=await asyncio.to_thread(mp3.encode, audio),
            content_type=mp3.CONTENT_TYPE,
            output_url=None,
            generation_s=0.0,
            cost_usd=0.0,
        )
