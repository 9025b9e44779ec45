"""Selects the URL from which the model reads the music that a clip continues.

In this order: the earlier output at the provider, while it exists; our stored clip, by a sealed
link to our public address; the window alone, inline in the request. It is always the clip as the
provider sent it, before any fade, gain or trim. Without a source the clip continues nothing.

Shapes: float32 `(channels, samples)`. Units: seconds in the interface, samples at 32 kHz.
I/O: the store and the provider's file hosts; decoding runs in child processes with limits.
"""

import asyncio
import base64
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.generator.providers import ContinuationWindow, mp3
from services.generator.providers.replicate.client import ReplicateApi
from services.generator.providers.replicate.request import AudioSource
from shared.clock import Clock
from shared.errors import MediaError, NotFoundError, ProviderRejectedError
from shared.media.decode import LENGTH_S_MAX, decode, decoded_bytes
from shared.media.samples import CLIP_RATE_HZ, Audio
from shared.media.sandbox import MediaSandbox
from shared.security.signed_links import SEGMENTS_PATH, SegmentLinks
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

OUTPUT_LIFE_S = 55 * 60.0  # outputs expire after an hour; a cold start precedes the download
_SHORT_SAMPLES = CLIP_RATE_HZ // 50  # a decoder may drop the rest of the last frame
_LONGER_S = 10  # than the end of the window: its clip may continue
_PREFIX = f"data:{mp3.CONTENT_TYPE};base64,"
# The best that fits is used: every continuation encodes the music once more.
_BIT_RATES = (320_000, 192_000, 128_000, 96_000, 64_000)
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")


class NoSourceError(ProviderRejectedError):
    """The clip to continue cannot be sent, and the run must not start afresh."""

    code = "continuation_unavailable"


@dataclass(kw_only=True)
class AudioSources:
    """Selects the source of a window; no link without `links` and `public_base_url`."""

    store: ObjectStore
    api: ReplicateApi
    links: SegmentLinks | None
    public_base_url: str | None
    data_url_bytes_max: int
    clock: Clock
    log: Logger
    sandbox: MediaSandbox

    async def select(self, window: ContinuationWindow) -> AudioSource | str:
        """Return the source of a window, or the reason why there is none.

        Raises:
            ProviderRejectedError: the window is not inside the clip.
        """
        try:
            stored = await self.store.get(window.clip_key)
        except NotFoundError:
            stored = None
        music = await self._decode_checked(stored, window) if stored is not None else None
        if await self._output_exists(window):
            assert window.clip_url is not None, "_output_exists checks it"
            return AudioSource(
                url=window.clip_url, start_s=window.start_s, end_s=window.end_s, kind="output"
            )
        if stored is None or music is None:
            return f"clip to continue not found or unreadable: {window.clip_key}"
        if self.links is not None and is_public_url(self.public_base_url):
            return self._linked(window)
        return await self._inline(music, window)

    async def _output_exists(self, window: ContinuationWindow) -> bool:
        url = window.clip_url
        if url is None or not self.api.is_provider_host(url):
            return False
        born_at = window.clip_url_born_at
        if born_at is not None and self.clock.now().timestamp() - born_at > OUTPUT_LIFE_S:
            return False
        return await self.api.is_alive(url)

    def _linked(self, window: ContinuationWindow) -> AudioSource:
        assert self.links is not None, "select() checks it"
        assert self.public_base_url is not None, "select() checks it"
        base = f"{self.public_base_url.rstrip('/')}{SEGMENTS_PATH}"
        self.log.info("Stored continuation segment at %s/…", base, action="continuation.stored")
        url = f"{base}/{self.links.seal(window.clip_key)}"
        return AudioSource(url=url, start_s=window.start_s, end_s=window.end_s, kind="link")

    async def _inline(self, music: Audio, window: ContinuationWindow) -> AudioSource | str:
        cut = music[:, window.start_s * CLIP_RATE_HZ : window.end_s * CLIP_RATE_HZ]
        url = await asyncio.to_thread(data_url, cut, bytes_max=self.data_url_bytes_max)
        if url is None:
            return (
                f"a window of {window.length_s} s is larger than {self.data_url_bytes_max} bytes,"
                " and PUBLIC_BASE_URL is not a public address"
            )
        return AudioSource(url=url, start_s=0, end_s=window.length_s, kind="inline")

    async def _decode_checked(self, stored: bytes, window: ContinuationWindow) -> Audio | None:
        """Return the decoded clip; None if it cannot be decoded.

        Raises:
            ProviderRejectedError: the window ends after the clip.
        """
        sandbox = self.sandbox.returning(decoded_bytes(min(LENGTH_S_MAX, window.end_s + _LONGER_S)))
        try:
            music = await sandbox.run(decode, stored, rate_hz=CLIP_RATE_HZ)
        except MediaError:
            return None
        if window.end_s * CLIP_RATE_HZ > music.shape[1] + _SHORT_SAMPLES:
            raise ProviderRejectedError(
                f"clip {window.clip_key} lasts {music.shape[1] / CLIP_RATE_HZ:.2f} s,"
                f" but its window ends at {window.end_s} s"
            )
        return music


def data_url(music: Audio, *, bytes_max: int) -> str | None:
    """Return `music` as an MP3 data URL at the best bit rate that fits; None if none does."""
    for bit_rate in _BIT_RATES:
        mp3_bytes_min = music.shape[1] / CLIP_RATE_HZ * bit_rate / 8
        if mp3_bytes_min * 4 / 3 > bytes_max:
            continue  # the bit rate is constant
        url = _PREFIX + base64.b64encode(mp3.encode(music, bit_rate=bit_rate)).decode()
        if len(url) <= bytes_max:
            return url
    return None


def is_public_url(base_url: str | None) -> bool:
    """Return whether the host name or address looks publicly reachable."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.rstrip(".") and not f".{host}".rstrip(".").endswith(_PRIVATE_NAMES)
