"""The database, topics and store of a test's api, and waiting for a job's status."""

from pathlib import Path
from typing import Any

import asyncpg
import httpx

from services.api.settings import ApiSettings
from shared.clock import SystemClock
from shared.contract.events import Event
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.api_fixture import api_settings
from tests.support.processes import eventually, records_of, value_of
from tests.support.servers import KafkaServer


class ApiServiceFixture:
    """One test's database, topics and store."""

    def __init__(self, url: str, kafka: KafkaServer, prefix: str, folder: Path) -> None:
        self.url, self.kafka, self.prefix, self.folder = url, kafka, prefix, folder

    def broker(self, **given: Any) -> KafkaSettings:
        """Return Kafka settings for the broker of this run."""
        fields: dict[str, Any] = {
            "bootstrap_servers": self.kafka.bootstrap,
            "topic_prefix": self.prefix,
            "create_topics": self.kafka.real,
            "fetch_max_wait_ms": 20,
            "session_timeout_s": 6,
            "heartbeat_s": 1,
            **given,
        }
        return KafkaSettings(**fields)

    def settings(self, **given: Any) -> ApiSettings:
        """Return settings of the api."""
        return api_settings(self.url, self.folder, **{"kafka": self.broker(), **given})

    async def publish(self, *events: Event) -> None:
        """Publish events as other services do."""
        publisher = Publisher(self.broker(), source="test", clock=SystemClock())
        await publisher.start()
        try:
            for event in events:
                await publisher.publish(event)
        finally:
            await publisher.stop()

    async def published(self, topic: str = "scene.requested") -> list[dict[str, Any]]:
        """Return the values of a topic's records, in order."""
        records = await records_of(self.kafka.bootstrap, topic, prefix=self.prefix)
        return [value_of(record) for record in records]

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """Return rows of the database."""
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


async def reached(client: httpx.AsyncClient, job_id: str, status: str) -> dict[str, Any]:
    """Wait until the job's status is `status`; return the status document."""

    async def poll() -> dict[str, Any] | None:
        answer = await client.get(f"/api/v3/audio/status/{job_id}")
        document: dict[str, Any] = answer.json()
        is_reached = answer.status_code == 200 and document["audio_status"]["status"] == status
        return document if is_reached else None

    return await eventually(poll, within_s=30, what=f"{job_id} is {status}")


async def all_done(client: httpx.AsyncClient, job_id: str) -> bool | None:
    """Return True once both scenes of the job are done, else None."""
    answer = await client.get(f"/api/v3/audio/status/{job_id}")
    states = [scene["state"] for scene in answer.json().get("progress", {}).get("scenes", [])]
    return (states == ["done", "done"]) or None


async def is_ready(client: httpx.AsyncClient) -> bool | None:
    """Return True once the api is ready, else None."""
    return (await client.get("/readyz")).status_code == 200 or None
