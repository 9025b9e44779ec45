"""Kafka is away, killed, or forgets everything: what the api accepted meanwhile is done."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from embedded.kafka import NativeKafka
from embedded.toolcache import ToolSettings
from tests.api_line import running_api
from tests.api_service import Line
from tests.faults.killing import KilledKafka, a_folder
from tests.faults.lengths import long_or
from tests.running import eventually, services
from tests.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

AWAY_S = long_or(long=180.0, short=8.0)
EVERY_S = 0.2
DONE_S = 90.0
SCENE = {"description": "a calm lake", "duration_s": 1.7}


@pytest.fixture
def broker() -> Iterator[KilledKafka]:
    """A broker of the test's own."""
    if why_not := NativeKafka.available(ToolSettings.from_environment()):
        pytest.skip(f"no Kafka to kill: {why_not}")
    with a_folder() as folder:
        broker = KilledKafka(folder)
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture
async def line(broker: KilledKafka, postgres: Database, store_folder: Path) -> Line:
    """A new database and store, on that broker."""
    server = KafkaServer(label="the test's own", bootstrap=broker.bootstrap)
    return Line(await postgres(), server, "", store_folder)


@asynccontextmanager
async def others(line: Line, folder: Path) -> AsyncIterator[None]:
    """The rest of the line, as processes."""
    environment = {
        **line.kafka.environment(),
        "SEGUE_STORE_DIR": str(line.folder),
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "silence",
    }
    ports = {name: {"SEGUE_HEALTH_PORT": "0"} for name in ("generator", "merger")}
    folder.mkdir(exist_ok=True)
    async with services("generator", "merger", environment=environment, folder=folder, of=ports):
        yield


async def _asked(api: httpx.AsyncClient, job_id: str) -> None:
    answer = await api.post(
        "/api/v3/audio/generate-scenes", json={"job_id": job_id, "scenes": [SCENE]}
    )
    assert answer.status_code == 202, answer.text


async def _all_done(line: Line, jobs: int) -> None:
    async def look() -> bool | None:
        rows = await line.rows("SELECT status FROM runs")
        return [row["status"] for row in rows] == ["completed"] * jobs or None

    await eventually(look, within_s=DONE_S, what=f"{jobs} jobs completed")


async def test_kafka_is_gone_while_requests_arrive_and_all_are_done_afterwards(
    broker: KilledKafka, line: Line, tmp_path: Path
) -> None:
    """Killed under a running line, back on its data: every request 202, every job completed."""
    asked = 0
    async with others(line, tmp_path / "logs"), running_api(line.settings()) as api:
        for _ in range(3):
            await _asked(api, f"job-{asked}")
            asked += 1
        await _all_done(line, asked)
        await broker.kill()
        end = asyncio.get_running_loop().time() + AWAY_S
        while asyncio.get_running_loop().time() < end:
            await _asked(api, f"job-{asked}")
            asked += 1
            await asyncio.sleep(EVERY_S)
        await broker.start()
        began = asyncio.get_running_loop().time()
        await _all_done(line, asked)
        took = asyncio.get_running_loop().time() - began
    records = [(record["job_id"], record["scene_index"]) for record in await line.published()]
    sys.stdout.write(
        f"Kafka gone for {AWAY_S:g} s: accepted {asked} of {asked}, completed {asked}, lost "
        f"{asked - len(set(records))}, said again {len(records) - len(set(records))}, "
        f"all done {took:.0f} s after it was back\n"
    )
    assert set(records) == {(f"job-{number}", 0) for number in range(asked)}


@pytest.mark.parametrize("epoch", ["a new one", "the same"])
async def test_topics_that_are_lost_altogether_are_made_again_from_postgresql(
    broker: KilledKafka, line: Line, tmp_path: Path, epoch: str
) -> None:
    """With a new epoch at the restart, or noticed by an api that goes on running."""
    is_told = epoch == "a new one"
    async with running_api(line.settings()) as api:
        for number in range(8):
            await _asked(api, f"job-{number}")

        async def published() -> bool | None:
            rows = await line.rows("SELECT sum(next_offset) AS n FROM projection_offsets")
            return rows == [{"n": 8}] or None

        await eventually(published, within_s=30, what="everything published and read")
        await broker.lose()
        if not is_told:
            await broker.start()
            async with others(line, tmp_path / "logs"):
                await _all_done(line, 8)
    if is_told:
        await broker.start()
        again = line.settings(kafka=line.broker(epoch="2"))
        async with others(line, tmp_path / "logs"), running_api(again):
            await _all_done(line, 8)
    sys.stdout.write(f"topics lost ({epoch} epoch): 8 of 8 unfinished runs completed\n")
