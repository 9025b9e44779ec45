"""A service whose servers are unavailable at its start: alive, not ready, with a deadline."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import httpx
import pytest

from services.api.database.migrate import LOCK_MIGRATE
from shared.settings import StoreSettings
from tests.support.api_fixture import TWO_SCENES, free_port
from tests.support.delayed_server import forwarded
from tests.support.processes import Service, eventually, services
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
STAGES = ("generator", "merger", "muxer")
READY_S = 60.0


def environment(kafka: KafkaServer, prefix: str, folder: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a service."""
    return {
        **kafka.environment(),
        "SEGUE_TOPIC_PREFIX": prefix,
        "SEGUE_STORE_DIR": str(folder / "store"),
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "synth",
        **settings,
    }


async def get_once_listening(port: int, path: str) -> httpx.Response:
    """Return the first response of the service."""

    async def poll() -> httpx.Response | None:
        try:
            return await client.get(f"http://127.0.0.1:{port}{path}")
        except httpx.TransportError:
            return None

    async with httpx.AsyncClient(timeout=10) as client:
        return await eventually(poll, within_s=READY_S, what=f"a response on {path}")


async def wait_for_detail(port: int, text: str, *, check: str = "service") -> dict[str, Any]:
    """Return the readyz document once the check's detail contains `text`."""

    async def poll() -> dict[str, Any] | None:
        document: dict[str, Any] = (await get_once_listening(port, "/readyz")).json()
        return document if text in document["checks"].get(check, {}).get("detail", "") else None

    return await eventually(poll, within_s=READY_S, what=f"{check}: {text}")


@pytest.mark.parametrize("name", STAGES)
async def test_a_service_waits_for_kafka(
    name: str, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """It is alive and not ready, then ready without a restart, with its metrics."""
    port, late = free_port(), free_port()
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{late}",
        SEGUE_HEALTH_PORT=str(port),
    )
    async with services(name, environment=variables, folder=tmp_path) as started:
        waiting = await wait_for_detail(port, "waiting for Kafka")
        alive = await get_once_listening(port, "/livez")
        metrics = await get_once_listening(port, "/metrics")
        async with forwarded(late, kafka.bootstrap):
            running = await wait_for_detail(port, "running")
            connected = await wait_for_detail(port, "answers", check="kafka")
        logged = started[name].count_logged("service.waiting")

    assert alive.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    assert waiting["ready"] is False
    assert waiting["checks"]["kafka"]["ok"] is False
    assert waiting["checks"]["store"]["ok"] is True
    assert running["figures"].pop("slots") > 0
    assert running["figures"] == {"lanes": 0, "records_in_flight": 0, "slots_taken": 0}
    assert connected["ready"] is True
    assert logged >= 1


@pytest.mark.parametrize("name", STAGES)
async def test_a_start_without_kafka_fails_at_the_deadline(
    name: str, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """Exit code 1 with the reason, so that a supervisor restarts the service."""
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        SEGUE_START_DEADLINE_S="3",
    )
    service = Service(name, variables, log=tmp_path / "log")
    await service.start()
    try:
        async with asyncio.timeout(30):
            code = await service.wait()
    finally:
        await service.kill()

    assert code == 1
    assert "Kafka unavailable for 3 s (SEGUE_START_DEADLINE_S)" in service.log.read_text()


async def test_a_service_stops_while_it_waits_for_kafka(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """With exit code 0."""
    port = free_port()
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        SEGUE_HEALTH_PORT=str(port),
    )
    codes = {}
    for name in STAGES:
        async with services(name, environment=variables, folder=tmp_path) as started:
            await wait_for_detail(port, "waiting for Kafka")
            codes[name] = await started[name].stop()

    assert codes == dict.fromkeys(STAGES, 0)


async def test_a_service_waits_for_the_store(
    minio: StoreSettings, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """As for the other servers."""
    port, late = free_port(), free_port()
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        SEGUE_STORE_DIR="",
        MINIO_ENDPOINT=f"http://127.0.0.1:{late}",
        MINIO_ACCESS_KEY=minio.access_key.get_secret_value(),
        MINIO_SECRET_KEY=minio.secret_key.get_secret_value(),
        MINIO_BUCKET=minio.bucket,
        SEGUE_HEALTH_PORT=str(port),
    )
    async with services("merger", environment=variables, folder=tmp_path):
        waiting = await wait_for_detail(port, "waiting for the store")
        async with forwarded(late, minio.endpoint.removeprefix("http://")):
            running = await wait_for_detail(port, "running")

    assert waiting["ready"] is False
    assert running["checks"]["service"]["ok"] is True


async def test_an_api_without_its_database_is_alive_and_returns_503(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """With Retry-After, never a refused connection; it works once the database is available."""
    url = await postgres()
    socket = parse_qs(urlsplit(url).query).get("host", [""])[0]
    if not socket.startswith("/"):
        pytest.skip("this PostgreSQL does not listen on a socket that could appear late")
    folder = tmp_path / "pg"
    port = free_port()
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        DATABASE_URL=url.replace(quote(socket, safe=""), quote(str(folder), safe="")),
        SEGUE_API_PORT=str(port),
        SEGUE_SEGMENT_KEYS="a secret for tests only",
    )
    async with services("api", environment=variables, folder=tmp_path):
        waiting = await wait_for_detail(port, "waiting for PostgreSQL")
        alive = await get_once_listening(port, "/livez")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            body = {"job_id": "j", "scenes": TWO_SCENES}
            rejected = await client.post("/api/v3/audio/generate-scenes", json=body)
            folder.symlink_to(socket)
            await wait_for_detail(port, "answers", check="provider")  # the tables exist
            connected = await wait_for_detail(port, "answers", check="postgres")
            accepted = await client.post("/api/v3/audio/generate-scenes", json=body)

    assert alive.status_code == 200
    assert waiting["ready"] is False
    assert rejected.status_code == 503
    assert rejected.headers["content-type"] == "application/problem+json"
    assert int(rejected.headers["retry-after"]) > 0
    assert connected["checks"]["postgres"]["ok"] is True
    assert accepted.status_code == 202


async def test_an_api_whose_tables_do_not_exist_yet_is_not_ready_and_queries_none(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """Another api is migrating the database: this one waits for it."""
    url, port = await postgres(), free_port()
    variables = environment(
        kafka,
        topic_prefix,
        tmp_path,
        DATABASE_URL=url,
        SEGUE_API_PORT=str(port),
        SEGUE_SEGMENT_KEYS="a secret for tests only",
    )
    other = await asyncpg.connect(url)
    try:
        await other.execute("SELECT pg_advisory_lock($1)", LOCK_MIGRATE)
        async with services("api", environment=variables, folder=tmp_path) as started:
            waiting = await wait_for_detail(port, "answers", check="postgres")
            await other.execute("SELECT pg_advisory_unlock($1)", LOCK_MIGRATE)
            migrated = await wait_for_detail(port, "answers", check="provider")
            failed = started["api"].count_logged("request.failed")
    finally:
        await other.close()

    assert waiting["ready"] is False
    assert "provider" not in waiting["checks"]
    assert migrated["checks"]["postgres"]["ok"] is True
    assert failed == 0
    assert "Traceback" not in (tmp_path / "api.log").read_text()
