"""Fetch: the video's bytes, from the store or from a URL, into a local file.

The guard and the bounds are `shared/http/fetcher.py`; what stands here is what a video is called
and how large it may be.

I/O: the network, the store, one file.
"""

import ssl

from services.muxer.settings import FetchSettings
from shared.http.fetcher import Fetcher, FetchSpec, Resolve, resolve
from shared.storage import ObjectStore


class VideoFetcher(Fetcher):
    """Brings a video here."""

    def __init__(
        self,
        store: ObjectStore,
        settings: FetchSettings,
        *,
        resolve: Resolve = resolve,
        verify: ssl.SSLContext | None = None,  #: None: the usual authorities
    ) -> None:
        super().__init__(
            store,
            FetchSpec(
                noun="video",
                field="video",
                code="video_unavailable",
                bytes_max=settings.bytes_max,
                bytes_max_setting="SEGUE_FETCH_BYTES_MAX",
                timeout_s=settings.timeout_s,
            ),
            private=settings.private_hosts,
            resolve=resolve,
            verify=verify,
        )
