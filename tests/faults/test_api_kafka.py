"""Kafka is stopped, killed or loses its data: every accepted job completes."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from embedded.servers.kafka import NativeKafka
from embedded.toolchain.cache import ToolSettings
from tests.faults.harness import checker
from tests.faults.harness.durations import long_or
from tests.faults.harness.fault_fixture import report
from tests.faults.harness.killable_servers import KillableKafka, short_folder
from tests.faults.harness.pipeline_harness import Client, Job, ended, full_pipeline
from tests.support.api_fixture import running_api
from tests.support.api_service import ApiServiceFixture
from tests.support.composed_clips import compose_same
from tests.support.processes import eventually, services
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FROZEN_S = long_or(long=60.0, short=8.0)  # the session timeout is 6 s
AWAY_S = long_or(long=180.0, short=3.0)
EVERY_S = long_or(long=0.5, short=0.25)
DONE_S = long_or(long=240.0, short=90.0)
SCENE = {"description": "a calm lake", "duration_s": 1.7}


@pytest.fixture
def broker() -> Iterator[KillableKafka]:
    """A broker of this test."""
    if why_not := NativeKafka.available(ToolSettings.from_environment()):
        pytest.skip(f"no Kafka to kill: {why_not}")
    with short_folder() as folder:
        broker = KillableKafka(folder)
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture
async def fixture(
    broker: KillableKafka, postgres: Database, store_folder: Path
) -> ApiServiceFixture:
    """A new database and store, with that broker."""
    server = KafkaServer(label="the test's own", bootstrap=broker.bootstrap)
    return ApiServiceFixture(await postgres(), server, "", store_folder)


@asynccontextmanager
async def others(fixture: ApiServiceFixture, folder: Path) -> AsyncIterator[None]:
    """Start generator and merger as processes."""
    environment = {
        **fixture.kafka.environment(),
        "SEGUE_STORE_DIR": str(fixture.folder),
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "silence",
    }
    ports = {name: {"SEGUE_HEALTH_PORT": "0"} for name in ("generator", "merger")}
    folder.mkdir(exist_ok=True)
    async with services("generator", "merger", environment=environment, folder=folder, of=ports):
        yield


async def _request(api: httpx.AsyncClient, job_id: str) -> None:
    answer = await api.post(
        "/api/v3/audio/generate-scenes", json={"job_id": job_id, "scenes": [SCENE]}
    )
    assert answer.status_code == 202, answer.text


async def _all_done(fixture: ApiServiceFixture, jobs: int) -> None:
    async def poll() -> bool | None:
        rows = await fixture.rows("SELECT status FROM runs")
        return [row["status"] for row in rows] == ["completed"] * jobs or None

    await eventually(poll, within_s=DONE_S, what=f"{jobs} jobs completed")


async def _request_until(client: Client, name: str, within_s: float) -> int:
    """Request jobs of one scene for `within_s`; return how many were accepted."""
    end = asyncio.get_running_loop().time() + within_s
    count = 0
    while asyncio.get_running_loop().time() < end:
        attempts = await client.request(Job(name=f"{name}-{count}", scene_count=1, has_video=False))
        assert attempts == 1, "accepted without Kafka"
        count += 1
        await asyncio.sleep(EVERY_S)
    return count


async def test_jobs_accepted_while_kafka_is_stopped_or_killed_complete(
    broker: KillableKafka, postgres: Database, tmp_path: Path
) -> None:
    """SIGSTOP, then SIGKILL and a restart with the data, while the pipeline runs."""
    server = KafkaServer(label="the test's own", bootstrap=broker.bootstrap)
    loop = asyncio.get_running_loop()
    pipeline = full_pipeline(server, await postgres(), tmp_path, workers=2, compose=compose_same)
    async with pipeline as (fixture, client, running):
        await _request_until(client, "before", 1.0)
        broker.freeze()
        frozen = await _request_until(client, "frozen", FROZEN_S)
        broker.thaw()
        start = loop.time()
        await client.until_done(within_s=DONE_S)
        thawed_s = loop.time() - start
        await broker.kill()
        gone = await _request_until(client, "gone", AWAY_S)
        await broker.start()
        start = loop.time()
        await client.until_done(within_s=DONE_S)
        back_s = loop.time() - start
        facts = await ended(fixture, client, running)
    sys.stdout.write(
        f"Kafka stopped for {FROZEN_S:g} s: accepted {frozen}, completed {thawed_s:.0f} s after; "
        f"killed for {AWAY_S:g} s: accepted {gone}, completed {back_s:.0f} s after the restart; "
        f"{report('all', [facts])}\n"
    )
    assert checker.violations(facts) == []


@pytest.mark.parametrize("epoch", long_or(long=["new", "same"], short=["same"]))
async def test_unfinished_runs_are_published_again_after_kafka_lost_its_topics(
    broker: KillableKafka, fixture: ApiServiceFixture, tmp_path: Path, epoch: str
) -> None:
    """With a new epoch at a restart of the api, or detected by the running api."""
    is_new = epoch == "new"
    async with running_api(fixture.settings()) as api:
        for number in range(8):
            await _request(api, f"job-{number}")

        async def published() -> bool | None:
            rows = await fixture.rows(
                "SELECT coalesce(sum(next_offset), 0) AS n FROM projection_offsets"
            )
            waiting = await fixture.rows("SELECT 1 FROM outbox")
            return (rows[0]["n"] >= 8 and not waiting) or None  # a retry may publish a record twice

        await eventually(published, within_s=30, what="everything published and projected")
        await broker.lose()
        if not is_new:
            await broker.start()
            async with others(fixture, tmp_path / "logs"):
                await _all_done(fixture, 8)
    if is_new:
        await broker.start()
        restarted = fixture.settings(kafka=fixture.broker(epoch="2"))
        async with others(fixture, tmp_path / "logs"), running_api(restarted):
            await _all_done(fixture, 8)
    sys.stdout.write(f"topics lost ({epoch} epoch): 8 of 8 unfinished runs completed\n")
