"""Sources: where the model gets the music that a clip continues.

In this order: the earlier output at the provider, while it is alive; our stored clip, by a
sealed link to our own address; the window alone, inside the request. Always the clip as the
provider sent it, before any fade, gain or trim. Without any of them the clip begins anew.

Shapes: float32 `(channels, samples)`. Units: seconds at the edge, samples at 32 kHz.
I/O: the store and the provider's file hosts; decoding runs in threads.
"""

import asyncio
import base64
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.generator.providers import ContinuationWindow, mp3
from services.generator.providers.replicate.client import ReplicateApi
from services.generator.providers.replicate.request import Source
from services.generator.providers.synth.voices import RATE_HZ
from shared.clock import Clock
from shared.errors import MediaError, NotFoundError, ProviderRejectedError
from shared.media.decode import decode
from shared.media.samples import Audio
from shared.security.signed_links import SEGMENTS_PATH, SegmentLinks
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

OUTPUT_LIFE_S = 55 * 60.0  # outputs die after an hour; a cold start comes before the download
_SHORT_SAMPLES = RATE_HZ // 50  # a decoder may miss the rest of a frame at the end
_PREFIX = f"data:{mp3.CONTENT_TYPE};base64,"
# The best that fits: each link of the chain codes the music once more.
_BIT_RATES = (320_000, 192_000, 128_000, 96_000, 64_000)
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")


class NoSourceError(ProviderRejectedError):
    """There is nothing to continue from, and the run asks to stop then."""

    code = "continuation_unavailable"


@dataclass(kw_only=True)
class Sources:
    """Chooses the source of a window. `links` and `public_base_url` None: step two is out."""

    store: ObjectStore
    api: ReplicateApi
    links: SegmentLinks | None
    public_base_url: str | None
    data_url_bytes_max: int
    clock: Clock
    log: Logger

    async def of(self, window: ContinuationWindow) -> Source | str:
        """The source; or why there is none.

        Raises:
            ProviderRejectedError: the window is not in the clip.
        """
        try:
            stored = await self.store.get(window.clip_key)
        except NotFoundError:
            stored = None
        music = await _checked(stored, window) if stored is not None else None
        if await self._lives(window):
            assert window.clip_url is not None, "_lives promises it"
            return Source(
                url=window.clip_url, start_s=window.start_s, end_s=window.end_s, kind="output"
            )
        if stored is None or music is None:
            return f"there is no clip {window.clip_key} that can be continued"
        if self.links is not None and is_public_url(self.public_base_url):
            return self._linked(window)
        return await self._inside(music, window)

    async def _lives(self, window: ContinuationWindow) -> bool:
        url = window.clip_url
        if url is None or not self.api.is_ours(url):
            return False
        born_at = window.clip_url_born_at
        if born_at is not None and self.clock.now().timestamp() - born_at > OUTPUT_LIFE_S:
            return False
        return await self.api.is_alive(url)

    def _linked(self, window: ContinuationWindow) -> Source:
        assert self.links is not None, "of() promises it"
        assert self.public_base_url is not None, "as above"
        place = f"{self.public_base_url.rstrip('/')}{SEGMENTS_PATH}"
        self.log.info("Stored continuation segment at %s/…", place, action="continuation.stored")
        url = f"{place}/{self.links.seal(window.clip_key)}"
        return Source(url=url, start_s=window.start_s, end_s=window.end_s, kind="link")

    async def _inside(self, music: Audio, window: ContinuationWindow) -> Source | str:
        cut = music[:, window.start_s * RATE_HZ : window.end_s * RATE_HZ]
        url = await asyncio.to_thread(data_url, cut, bytes_max=self.data_url_bytes_max)
        if url is None:
            return (
                f"a window of {window.length_s} s is larger than {self.data_url_bytes_max} bytes,"
                " and PUBLIC_BASE_URL names no public address to fetch it from"
            )
        return Source(url=url, start_s=0, end_s=window.length_s, kind="inside")


def data_url(music: Audio, *, bytes_max: int) -> str | None:
    """`music` as an MP3 in a URL, as good as fits; None if nothing fits."""
    for bit_rate in _BIT_RATES:
        least_bytes = music.shape[1] / RATE_HZ * bit_rate / 8
        if least_bytes * 4 / 3 > bytes_max:
            continue  # it is coded at a constant rate
        url = _PREFIX + base64.b64encode(mp3.encode(music, bit_rate=bit_rate)).decode()
        if len(url) <= bytes_max:
            return url
    return None


def is_public_url(base_url: str | None) -> bool:
    """Whether the world can reach this address, as far as its name tells."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.rstrip(".") and not f".{host}".rstrip(".").endswith(_PRIVATE_NAMES)


async def _checked(stored: bytes, window: ContinuationWindow) -> Audio | None:
    """The clip's music, with the window in it; None if it cannot be read.

    Raises:
        ProviderRejectedError: the window ends after the clip.
    """
    try:
        music = await asyncio.to_thread(decode, stored, rate_hz=RATE_HZ)
    except MediaError:
        return None
    if window.end_s * RATE_HZ > music.shape[1] + _SHORT_SAMPLES:
        raise ProviderRejectedError(
            f"clip {window.clip_key} lasts {music.shape[1] / RATE_HZ:.2f} s,"
            f" its window would end at {window.end_s} s"
        )
    return music
