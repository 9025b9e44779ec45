"""Edge: what every route may use, built once in `app.py`."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from services.api.background.job_notifications import JobNotifications
from services.api.database import Database
from services.api.http.webhook_keys import WebhookKeys
from services.api.settings import ApiSettings
from shared.clock import Clock
from shared.http.probes import Probe
from shared.security.signed_links import SEGMENTS_PATH, SegmentLinks, WebhookLinks
from shared.security.webhook_signatures import Deliveries
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

_SEALED_MAX = 50_000  # tokens kept, some 300 bytes each


class SegmentPaths:
    """Paths to segments, each sealed once per half of its life, so that one lives long enough."""

    def __init__(self, links: SegmentLinks, *, ttl_s: int, clock: Clock) -> None:
        self._links = links
        self._half_life_s = max(1.0, ttl_s / 2)
        self._clock = clock
        self._period = 0
        self._sealed: dict[str, str] = {}

    @property
    def period(self) -> int:
        """Changes when paths do."""
        return int(self._clock.now().timestamp() / self._half_life_s)

    def path(self, object_key: str) -> str:
        """The path of a segment, open to whoever has it."""
        period = self.period
        if period != self._period or len(self._sealed) >= _SEALED_MAX:
            self._period, self._sealed = period, {}
        if object_key not in self._sealed:
            self._sealed[object_key] = f"{SEGMENTS_PATH}/{self._links.seal(object_key)}"
        return self._sealed[object_key]


@dataclass(kw_only=True)
class ApiContext:
    """The parts behind the routes."""

    settings: ApiSettings
    database: Database
    store: ObjectStore
    links: SegmentLinks
    paths: SegmentPaths
    webhook_links: WebhookLinks
    webhook_keys: WebhookKeys
    notices: JobNotifications
    probes: tuple[Probe, ...]
    clock: Clock
    log: Logger
    stop: asyncio.Event
    webhooks_heard: Deliveries = field(default_factory=Deliveries)
    uploads: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.uploads = asyncio.Semaphore(self.settings.limits.uploads_max)


async def _context(request: Request) -> ApiContext:  # were it not async, each request took a thread
    context = request.app.state.context
    assert isinstance(context, ApiContext), "app.py puts it there"
    return context


ContextDep = Annotated[ApiContext, Depends(_context)]
