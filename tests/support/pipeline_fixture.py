"""Line: the four services as processes of their own, on the servers of this run."""

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
    """Running services, and a client of their api."""

    kafka: KafkaServer
    prefix: str
    folder: Path
    client: httpx.AsyncClient
    services: Mapping[str, Service]

    async def upload(self, video: Path) -> dict[str, Any]:
        """Hand in a local video file; the reference to it."""
        answer = await self.client.post("/api/v3/videos", content=video.read_bytes())
        assert answer.status_code == 201, answer.text
        reference: dict[str, Any] = answer.json()["video"]
        return reference

    async def generate(self, **body: Any) -> httpx.Response:
        """Ask for music."""
        return await self.client.post(f"{BASE}/generate-scenes", json=body)

    async def status(self, job_id: str) -> dict[str, Any] | None:
        """The status, once the job is known."""
        answer = await self.client.get(f"{BASE}/status/{job_id}")
        told: dict[str, Any] = answer.json()
        return told if answer.status_code == 200 else None

    async def ended(self, job_id: str, *, run: int = 1, within_s: float = DONE_S) -> dict[str, Any]:
        """The status of a run that came to its end."""

        async def look() -> dict[str, Any] | None:
            told = await self.status(job_id)
            ends = told is not None and told["audio_status"]["status"] in FINAL
            return told if ends and told is not None and told["run"] >= run else None

        return await eventually(look, within_s=within_s, what=f"the end of {job_id}")

    async def save(self, path: str, target: Path) -> Path:
        """Download to a file."""
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
    """The four services, ready; killed at the end. `of` adds to the settings of single ones."""
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
