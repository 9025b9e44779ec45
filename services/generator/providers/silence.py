"""Returns silence of the requested length, for runs that want no music and for tests.

I/O: none.
"""

import warnings

from typing_extensions import override

from services.generator.providers import CompositionRequest, mp3
from services.generator.providers.local import LocalProvider
from shared.media.samples import CLIP_RATE_HZ, silence
from shared.storage import StandInWarning


class SilenceProvider(LocalProvider):
    """A `MusicProvider` whose clips are silent and are not continued."""

    name = "silence"
    model: str | None = None
    makes_silence = True

    def __init__(self) -> None:
        super().__init__()
        warnings.warn(
            StandInWarning("music is silence: the provider of a run is silence"), stacklevel=2
        )

    @override
    def compose(self, request: CompositionRequest, source: bytes | None) -> bytes:
        """Return `duration_s` seconds of silence, whatever the window contains."""
        return mp3.encode(silence(request.duration_s * CLIP_RATE_HZ))
