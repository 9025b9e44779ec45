"""Holds what the routes use: settings, database, store and keys; built in `app.py`."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from services.api.background.job_notifications import JobNotifications
from services.api.background.upload_sweep import UploadSweep
from services.api.database import Database
from services.api.http.json_body import JsonBodies
from services.api.http.uploads import UploadSlots
from services.api.http.webhook_keys import WebhookKeys
from services.api.settings import ApiSettings
from shared.clock import Clock
from shared.http.probes import Probe
from shared.media.sandbox import MediaSandbox
from shared.scratch import Scratch
from shared.security.signed_links import SEGMENTS_PATH, SegmentLinks, WebhookLinks
from shared.security.webhook_signatures import Deliveries
from shared.storage import ObjectStore
from shared.telemetry.log import Logger

_SEALED_MAX = 50_000  # cached tokens of about 300 bytes each


class SegmentPaths:
    """Signed paths of segments, each reused for half of its lifetime."""

    def __init__(self, links: SegmentLinks, *, ttl_s: int, clock: Clock) -> None:
        self._links = links
        self._half_life_s = max(1.0, ttl_s / 2)
        self._clock = clock
        self._period = 0
        self._sealed: dict[str, str] = {}

    @property
    def period(self) -> int:
        """Number of the current half lifetime; the paths change with it."""
        return int(self._clock.now().timestamp() / self._half_life_s)

    def path(self, object_key: str) -> str:
        """Return the signed path of a segment; no other credential is needed."""
        period = self.period
        if period != self._period or len(self._sealed) >= _SEALED_MAX:
            self._period, self._sealed = period, {}
        if object_key not in self._sealed:
            self._sealed[object_key] = f"{SEGMENTS_PATH}/{self._links.seal(object_key)}"
        return self._sealed[object_key]


@dataclass(kw_only=True)
class ApiContext:
    """Dependencies of the routes."""

    settings: ApiSettings
    database: Database
    store: ObjectStore
    links: SegmentLinks
    paths: SegmentPaths
    webhook_links: WebhookLinks
    webhook_keys: WebhookKeys
    notifications: JobNotifications
    probes: tuple[Probe, ...]
    clock: Clock
    log: Logger
    stop: asyncio.Event
    deliveries: Deliveries = field(default_factory=Deliveries)
    uploads: UploadSlots = field(init=False)
    upload_sweep: UploadSweep = field(init=False)
    json_bodies: JsonBodies = field(init=False)
    scratch: Scratch = field(init=False)
    sandbox: MediaSandbox = field(init=False)  #: reads what was uploaded

    def __post_init__(self) -> None:
        self.scratch = Scratch(self.settings.scratch, name="upload")
        self.sandbox = MediaSandbox(self.settings.media)
        limits = self.settings.limits
        self.uploads = UploadSlots(count=limits.uploads_max, rate_min=limits.receive_rate_min)
        self.json_bodies = JsonBodies(limits)
        self.upload_sweep = UploadSweep(
            database=self.database,
            store=self.store,
            quota_bytes=limits.upload_quota_bytes,
            retention_s=limits.upload_retention_s,
            clock=self.clock,
            log=self.log,
        )


async def _context(request: Request) -> ApiContext:  # async, so that no request needs a thread
    context = request.app.state.context
    assert isinstance(context, ApiContext), "set by create_app"
    return context


ContextDep = Annotated[ApiContext, Depends(_context)]
