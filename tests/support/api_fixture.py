"""The api for tests: its HTTP application on a real database, or the whole service."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from services.api.app import run
from services.api.background.job_notifications import JobNotifications
from services.api.database import Database, pricing
from services.api.database.migrate import migrate
from services.api.http.application import create_app
from services.api.http.context import ApiContext, SegmentPaths
from services.api.http.webhook_keys import WebhookKeys
from services.api.projection.apply_batch import Applier, Batch
from services.api.settings import ApiSettings, DatabaseSettings, LimitSettings
from shared.clock import Clock, SystemClock
from shared.contract.events import Event
from shared.http.probes import Probe
from shared.kafka.codec import Record, encode
from shared.security.signed_links import LinkSettings, SegmentLinks, WebhookLinks
from shared.settings import KafkaSettings, StoreSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of

KEYS = "a secret that tests alone know"
NOWHERE = "127.0.0.1:9"  # nothing listens on the discard port
TWO_SCENES = [
    {"description": "a calm lake", "duration_s": 1.7},
    {"description": "an exciting chase", "duration_s": 2.3},
]


def api_settings(url: str, folder: Path, **given: Any) -> ApiSettings:
    """Return settings of an api on this database and store; without Kafka unless given."""
    fields: dict[str, Any] = {
        "port": 0,
        "database": DatabaseSettings(url=url, timeout_s=10, start_s=20),
        "store": StoreSettings(folder=folder),
        "links": LinkSettings(keys=KEYS),
        "kafka": KafkaSettings(bootstrap_servers=NOWHERE),
        **given,
    }
    return ApiSettings(**fields)


@dataclass(kw_only=True)
class ApiFixture:
    """The HTTP application in this process and its database; events are applied without Kafka."""

    context: ApiContext
    client: httpx.AsyncClient
    applier: Applier
    url: str

    async def post(self, **body: Any) -> httpx.Response:
        """Post a generate-scenes request."""
        return await self.client.post("/api/v3/audio/generate-scenes", json=body)

    async def status(self, job_id: str) -> dict[str, Any]:
        """Return the status of a job; it must exist."""
        answer = await self.client.get(f"/api/v3/audio/status/{job_id}")
        assert answer.status_code == 200, answer.text
        status: dict[str, Any] = answer.json()
        return status

    async def apply(self, *events: Event) -> None:
        """Apply events in this order, each as a batch of its own."""
        for event in events:
            record = encode(event, source="test", now=SystemClock().now())
            await self.apply_record(record.topic, record.value, key=record.key)

    async def apply_record(
        self, topic: str, value: bytes | None, *, key: bytes | None = None
    ) -> None:
        """Apply a record as the next one of partition 0 of the topic."""
        async with self.context.database.transaction() as connection:
            start = await connection.fetchval(
                """
                INSERT INTO projection_offsets VALUES ('1', $1, 0, 0)
                ON CONFLICT (epoch, topic, partition) DO UPDATE SET epoch = excluded.epoch
                RETURNING next_offset
                """,
                topic,
            )
        record = Record(topic=topic, partition=0, offset=start, key=key, value=value)
        await self.applier.apply(
            Batch(topic=topic, partition=0, start=start, end=start + 1, records=(record,))
        )

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows of the database, read over a separate connection."""
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()


@asynccontextmanager
async def api_fixture(
    url: str, folder: Path, *, clock: Clock | None = None, **given: Any
) -> AsyncIterator[ApiFixture]:
    """Open the HTTP application on a migrated database, without Kafka or a socket."""
    clock = clock or SystemClock()
    settings = api_settings(url, folder, **given)
    database = Database(settings.database)
    await database.open()
    log = logger_of("api")
    stop = asyncio.Event()
    notices = JobNotifications(
        database=database, listeners_max=settings.limits.listeners_max, log=log
    )
    links = SegmentLinks(settings.links, clock=clock)
    store = FolderStore(folder)
    listening = asyncio.create_task(notices.run(stop))
    try:
        await migrate(database)
        async with database.transaction() as connection:
            await pricing.record(connection, settings.pricing, now=clock.now())
        context = ApiContext(
            settings=settings,
            database=database,
            store=store,
            links=links,
            paths=SegmentPaths(links, ttl_s=settings.links.ttl_s, clock=clock),
            webhook_links=WebhookLinks(settings.links, clock=clock),
            webhook_keys=WebhookKeys(
                settings.webhook_secret, settings.pricing.replicate, clock=clock
            ),
            notifications=notices,
            probes=(
                Probe(name="postgres", call=database.check, clock=clock),
                Probe(name="store", call=store.check, clock=clock),
            ),
            clock=clock,
            log=log,
            stop=stop,
        )
        transport = httpx.ASGITransport(app=create_app(context), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            applier = Applier(
                database=database, settings=settings, clock=clock, log=log, store=store
            )
            yield ApiFixture(context=context, client=client, applier=applier, url=url)
    finally:
        stop.set()
        await listening
        await database.close()


@asynccontextmanager
async def running_api(settings: ApiSettings) -> AsyncIterator[httpx.AsyncClient]:
    """Run the whole service on a free port; yield an HTTP client of it."""
    settings = settings.model_copy(update={"port": free_port()})
    stop, ready = asyncio.Event(), asyncio.Event()
    service = asyncio.create_task(run(settings, stop=stop, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({service, waiting}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            service.result()
        base = f"http://127.0.0.1:{settings.port}"
        async with httpx.AsyncClient(base_url=base, timeout=20) as client:
            yield client
    finally:
        stop.set()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await service


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def limits(**given: Any) -> LimitSettings:
    """Limits, some of them smaller."""
    return LimitSettings(**given)
