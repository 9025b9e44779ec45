"""A start that waits for its servers: alive meanwhile, saying for what, and not for ever."""

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
    """What a service is told."""
    return {
        **kafka.environment(),
        "SEGUE_TOPIC_PREFIX": prefix,
        "SEGUE_STORE_DIR": str(folder / "store"),
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "synth",
        **settings,
    }


async def answered(port: int, path: str) -> httpx.Response:
    """What the service says, once it says anything."""

    async def look() -> httpx.Response | None:
        try:
            return await client.get(f"http://127.0.0.1:{port}{path}")
        except httpx.TransportError:
            return None

    async with httpx.AsyncClient(timeout=10) as client:
        return await eventually(look, within_s=READY_S, what=f"an answer on {path}")


async def said(port: int, words: str, *, check: str = "service") -> dict[str, Any]:
    """What readyz says, once a check has these words."""

    async def look() -> dict[str, Any] | None:
        told: dict[str, Any] = (await answered(port, "/readyz")).json()
        return told if words in told["checks"].get(check, {}).get("detail", "") else None

    return await eventually(look, within_s=READY_S, what=f"{check}: {words}")


@pytest.mark.parametrize("name", STAGES)
async def test_kafka_that_comes_late_is_waited_for(
    name: str, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """Alive and not ready, then ready by itself, with what is under way."""
    port, late = free_port(), free_port()
    told = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{late}",
        SEGUE_HEALTH_PORT=str(port),
    )
    async with services(name, environment=told, folder=tmp_path) as started:
        waits = await said(port, "waiting for Kafka")
        alive = await answered(port, "/livez")
        figures = await answered(port, "/metrics")
        async with forwarded(late, kafka.bootstrap):
            works = await said(port, "running")
            kafka_found = await said(port, "answers", check="kafka")
        logged = started[name].count_logged("service.waiting")

    assert alive.status_code == 200
    assert figures.headers["content-type"].startswith("text/plain")
    assert waits["ready"] is False
    assert waits["checks"]["kafka"]["ok"] is False
    assert waits["checks"]["store"]["ok"] is True
    assert works["figures"].pop("slots") > 0
    assert works["figures"] == {"lanes": 0, "records_in_flight": 0, "slots_taken": 0}
    assert kafka_found["ready"] is True
    assert logged >= 1


@pytest.mark.parametrize("name", STAGES)
async def test_kafka_that_never_comes_ends_the_start_with_its_reason(
    name: str, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """Exit code 1: whoever supervises starts it again, and sees why."""
    told = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        SEGUE_START_DEADLINE_S="3",
    )
    service = Service(name, told, log=tmp_path / "log")
    await service.start()
    try:
        async with asyncio.timeout(30):
            code = await service.wait()
    finally:
        await service.kill()

    assert code == 1
    assert "Kafka unavailable for 3 s (SEGUE_START_DEADLINE_S)" in service.log.read_text()


async def test_a_stop_during_the_wait_is_obeyed(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """Cleanly: it was asked to."""
    port = free_port()
    told = environment(
        kafka,
        topic_prefix,
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        SEGUE_HEALTH_PORT=str(port),
    )
    codes = {}
    for name in STAGES:
        async with services(name, environment=told, folder=tmp_path) as started:
            await said(port, "waiting for Kafka")
            codes[name] = await started[name].stop()

    assert codes == dict.fromkeys(STAGES, 0)


async def test_a_store_that_comes_late_is_waited_for(
    minio: StoreSettings, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """The object store is a server like the others."""
    port, late = free_port(), free_port()
    told = environment(
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
    async with services("merger", environment=told, folder=tmp_path):
        waits = await said(port, "waiting for the store")
        async with forwarded(late, minio.endpoint.removeprefix("http://")):
            works = await said(port, "running")

    assert waits["ready"] is False
    assert works["checks"]["service"]["ok"] is True


async def test_an_api_without_its_database_is_alive_and_refuses_politely(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """503 with Retry-After, never a refused connection; then it works by itself."""
    url = await postgres()
    socket = parse_qs(urlsplit(url).query).get("host", [""])[0]
    if not socket.startswith("/"):
        pytest.skip("this PostgreSQL is no socket that could come late")
    folder = tmp_path / "pg"
    port = free_port()
    told = environment(
        kafka,
        topic_prefix,
        tmp_path,
        DATABASE_URL=url.replace(quote(socket, safe=""), quote(str(folder), safe="")),
        SEGUE_API_PORT=str(port),
        SEGUE_SEGMENT_KEYS="a secret for tests alone",
    )
    async with services("api", environment=told, folder=tmp_path):
        waits = await said(port, "waiting for PostgreSQL")
        alive = await answered(port, "/livez")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            ask = {"job_id": "j", "scenes": TWO_SCENES}
            refused = await client.post("/api/v3/audio/generate-scenes", json=ask)
            folder.symlink_to(socket)
            await said(port, "answers", check="provider")  # the tables are there
            found = await said(port, "answers", check="postgres")
            taken = await client.post("/api/v3/audio/generate-scenes", json=ask)

    assert alive.status_code == 200
    assert waits["ready"] is False
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) > 0
    assert found["checks"]["postgres"]["ok"] is True
    assert taken.status_code == 202


async def test_an_api_whose_tables_are_not_made_yet_is_not_ready_and_asks_none_of_them(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    """PostgreSQL answers, and another api makes the tables: this one waits for it."""
    url, port = await postgres(), free_port()
    told = environment(
        kafka,
        topic_prefix,
        tmp_path,
        DATABASE_URL=url,
        SEGUE_API_PORT=str(port),
        SEGUE_SEGMENT_KEYS="a secret for tests alone",
    )
    other = await asyncpg.connect(url)
    try:
        await other.execute("SELECT pg_advisory_lock($1)", LOCK_MIGRATE)
        async with services("api", environment=told, folder=tmp_path) as started:
            waits = await said(port, "answers", check="postgres")
            await other.execute("SELECT pg_advisory_unlock($1)", LOCK_MIGRATE)
            works = await said(port, "answers", check="provider")
            failed = started["api"].count_logged("request.failed")
    finally:
        await other.close()

    assert waits["ready"] is False
    assert "provider" not in waits["checks"]
    assert works["checks"]["postgres"]["ok"] is True
    assert failed == 0
    assert "Traceback" not in (tmp_path / "api.log").read_text()
