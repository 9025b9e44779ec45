"""Fetches the video of a run, for the muxer, and its beginning, for the generator.

I/O: as `fetcher`.
"""

import ssl

from pydantic import Field

from shared.http.fetcher import Fetcher, FetchGuardSettings, FetchSpec, Resolve, resolve
from shared.storage import ObjectStore

UNAVAILABLE = "video_unavailable"  #: code of the error if a video does not exist


class FetchSettings(FetchGuardSettings):
    """Limits of fetching a video from a URL or the store."""

    #: a larger video is rejected
    bytes_max: int = Field(4 * 1024**3, ge=1, validation_alias="SEGUE_FETCH_BYTES_MAX")
    #: limit of a whole download, redirects included
    timeout_s: float = Field(600, gt=0, le=86_400, validation_alias="SEGUE_FETCH_TIMEOUT_S")


def video_fetcher(
    store: ObjectStore,
    settings: FetchSettings,
    *,
    resolve: Resolve = resolve,
    verify: ssl.SSLContext | None = None,
) -> Fetcher:
    """Return a fetcher for videos; `verify` None: the default certificate authorities."""
    spec = FetchSpec(
        noun="video",
        field="video",
        code=UNAVAILABLE,
        bytes_max=settings.bytes_max,
        bytes_max_setting="SEGUE_FETCH_BYTES_MAX",
        timeout_s=settings.timeout_s,
        rate_bytes_per_s_min=settings.rate_bytes_per_s_min,
        rate_window_s=settings.rate_window_s,
        host_slots=settings.host_slots,
        slots=settings.fetch_slots,
    )
    return Fetcher(store, spec, private=settings.private_hosts, resolve=resolve, verify=verify)
