"""Builds the Replicate provider from the settings.

I/O: none; connections are opened on first use.
"""

import httpx

from services.generator.providers.replicate.audio_source import AudioSources, is_public_url
from services.generator.providers.replicate.client import ReplicateApi
from services.generator.providers.replicate.provider import ReplicateProvider, WebhookUrl
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.media.sandbox import MediaSandbox
from shared.security.signed_links import LinkSettings, SegmentLinks, WebhookLinks
from shared.storage import ObjectStore
from shared.telemetry.log import Logger


def build_replicate(
    settings: ReplicateSettings,
    *,
    links: LinkSettings,
    store: ObjectStore,
    sandbox: MediaSandbox,
    clock: Clock,
    log: Logger,
    transport: httpx.AsyncBaseTransport | None = None,
    webhook: WebhookUrl | None = None,
    name: str = "replicate",
) -> ReplicateProvider:
    """Return the provider; log once what the public address does not allow."""
    api = ReplicateApi(settings, clock=clock, transport=transport)
    if (reason := _why_no_links(links)) is not None:
        log.info(
            "windows are sent inline, and predictions are polled without webhooks",
            action="continuation.unavailable",
            reason=reason,
            public_base_url=links.public_base_url,
        )
    sources = AudioSources(
        store=store,
        api=api,
        links=SegmentLinks(links, clock=clock) if links.keys.get_secret_value() else None,
        public_base_url=links.public_base_url,
        data_url_bytes_max=settings.data_url_bytes_max,
        clock=clock,
        log=log,
        sandbox=sandbox,
    )
    return ReplicateProvider(
        settings,
        api=api,
        sources=sources,
        sandbox=sandbox,
        clock=clock,
        log=log,
        webhook=webhook or build_webhook(links, clock=clock),
        name=name,
    )


def _why_no_links(links: LinkSettings) -> str | None:
    """Return why the provider cannot fetch clips from us; None if it can."""
    if not is_public_url(links.public_base_url):
        return "PUBLIC_BASE_URL is not a public address"
    if not links.keys.get_secret_value():
        return "SEGUE_SEGMENT_KEYS is not set; links cannot be sealed"
    return None


def build_webhook(links: LinkSettings, *, clock: Clock) -> WebhookUrl | None:
    """Return the webhook URL of a job as a function; None if no webhook is possible."""
    base_url = links.public_base_url
    if base_url is None or not is_public_url(base_url) or not links.keys.get_secret_value():
        return None
    if not base_url.lower().startswith("https://"):
        return None  # the provider calls https URLs only
    sealed = WebhookLinks(links, clock=clock)
    return lambda job_id: sealed.url(base_url, job_id)
