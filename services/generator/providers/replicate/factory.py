"""Building: the Replicate provider with everything it needs, from the settings.

I/O: none; connections are made when they are needed.
"""

import httpx

from services.generator.providers.replicate.audio_source import Sources, is_public_url
from services.generator.providers.replicate.client import ReplicateApi
from services.generator.providers.replicate.provider import ReplicateProvider, Webhook
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.security.signed_links import LinkSettings, SegmentLinks, WebhookLinks
from shared.storage import ObjectStore
from shared.telemetry.log import Logger


def build_replicate(
    settings: ReplicateSettings,
    *,
    links: LinkSettings,
    store: ObjectStore,
    clock: Clock,
    log: Logger,
    transport: httpx.AsyncBaseTransport | None = None,
    webhook: Webhook | None = None,
) -> ReplicateProvider:
    """The provider; what the outside address allows is said once, here."""
    api = ReplicateApi(settings, clock=clock, transport=transport)
    if (why := _why_inside(links)) is not None:
        log.info(
            "windows travel inside the requests, and predictions are polled",
            action="continuation.unavailable",
            reason=why,
            public_base_url=links.public_base_url,
        )
    sources = Sources(
        store=store,
        api=api,
        links=SegmentLinks(links, clock=clock) if links.keys.get_secret_value() else None,
        public_base_url=links.public_base_url,
        data_url_bytes_max=settings.data_url_bytes_max,
        clock=clock,
        log=log,
    )
    return ReplicateProvider(
        settings,
        api=api,
        sources=sources,
        clock=clock,
        log=log,
        webhook=webhook or webhooks(links, clock=clock),
    )


def _why_inside(links: LinkSettings) -> str | None:
    """Why the provider cannot fetch from us; None: it can."""
    if not is_public_url(links.public_base_url):
        return "PUBLIC_BASE_URL names no public address"
    if not links.keys.get_secret_value():
        return "SEGUE_SEGMENT_KEYS is not set, so no link can be sealed"
    return None


def webhooks(links: LinkSettings, *, clock: Clock) -> Webhook | None:
    """Where the provider may tell us that a prediction ended; None: nowhere, so it is polled."""
    base_url = links.public_base_url
    if base_url is None or not is_public_url(base_url) or not links.keys.get_secret_value():
        return None
    if not base_url.lower().startswith("https://"):
        return None  # it calls nothing else
    sealed = WebhookLinks(links, clock=clock)
    return lambda job_id: sealed.url(base_url, job_id)
