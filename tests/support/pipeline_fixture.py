"""Start the four services as processes on the servers of this run."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.http.server import free_ports
from tests.support.processes import Service, eventually, services
from tests.support.servers import Database, KafkaServer

SERVICES = ("api", "generator", "merger", "muxer")
FINAL = {"completed", "failed", "cancelled"}
DONE_S = 120.0
START_S = 60.0
BASE = "/api/v3/audio"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The running services and an HTTP client of the api."""

    kafka: KafkaServer
    prefix: str
    folder: Path
    client: httpx.AsyncClient
    services: Mapping[str, Service]

    async def upload(self, video: Path) -> dict[str, Any]:
        """Upload a video file; return the reference to it."""
        answer = await self.client.post("/api/v3/videos", content=video.read_bytes())
        assert answer.status_code == 201, answer.text
        reference: dict[str, Any] = answer.json()["video"]
        return reference

    async def generate(self, **body: Any) -> httpx.Response:
        """Post a generate-scenes request."""
        return await self.client.post(f"{BASE}/generate-scenes", json=body)

    async def status(self, job_id: str) -> dict[str, Any] | None:
        """Return the status of a job; None if the job is unknown."""
        answer = await self.client.get(f"{BASE}/status/{job_id}")
        status: dict[str, Any] = answer.json()
        return status if answer.status_code == 200 else None

    async def ended(self, job_id: str, *, run: int = 1, within_s: float = DONE_S) -> dict[str, Any]:
        """Wait for the end of a run; return the status."""

        async def poll() -> dict[str, Any] | None:
            status = await self.status(job_id)
            if status is None or status["run"] < run:
                return None
            return status if status["audio_status"]["status"] in FINAL else None

        return await eventually(poll, within_s=within_s, what=f"the end of {job_id}")

    async def save(self, path: str, target: Path) -> Path:
        """Download `path` to a file."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        target.write_bytes(answer.content)
        return target


#: starts the four services on the servers of a test; keywords are settings of all services
OpenPipeline = Callable[..., AbstractAsyncContextManager[Pipeline]]


@asynccontextmanager
async def running_pipeline(
    kafka: KafkaServer,
    database: Database,
    prefix: str,
    folder: Path,
    *,
    of: Mapping[str, Mapping[str, str]] | None = None,
    kind: type[Service] = Service,
    **settings: str,
) -> AsyncIterator[Pipeline]:
    """Start the four services and wait until they are ready; kill them at the end.

    `of` has more settings per service.
    """
    (port,) = free_ports(1)
    environment = {
        **kafka.environment(),
        "DATABASE_URL": await database(),
        "SEGUE_TOPIC_PREFIX": prefix,
        "SEGUE_STORE_DIR": str(folder / "store"),
        "SEGUE_API_PORT": str(port),
        "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "synth",
        **settings,
    }
    base = f"http://127.0.0.1:{port}"
    async with (
        services(*SERVICES, environment=environment, folder=folder, of=of, kind=kind) as started,
        httpx.AsyncClient(base_url=base, timeout=30) as client,
    ):

        async def ready() -> bool | None:
            try:
                return (await client.get("/readyz")).status_code == 200 or None
            except httpx.TransportError:
                return None

        await eventually(ready, within_s=START_S, what="readyz")
        yield Pipeline(kafka=kafka, prefix=prefix, folder=folder, client=client, services=started)
