"""PostgreSQL is killed during transactions: every accepted job is published once."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from embedded.servers.postgres import EmbeddedPostgres
from tests.faults.harness.durations import SEED, long_or
from tests.faults.harness.killable_servers import KillablePostgres, short_folder
from tests.support.api_fixture import TWO_SCENES, running_api
from tests.support.api_service import ApiServiceFixture
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEATHS = long_or(long=20, short=5)
CLIENTS = 8
ALIVE_S = (0.1, 0.6)  # from a restart to the next kill


@pytest.fixture
def server() -> Iterator[KillablePostgres]:
    """A PostgreSQL server of this test."""
    if why_not := EmbeddedPostgres.available():
        pytest.skip(f"no PostgreSQL to kill: {why_not}")
    with short_folder() as folder:
        server = KillablePostgres(folder)
        try:
            yield server
        finally:
            server.stop()


class Flood:
    """Clients that request jobs until each is accepted, across kills."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self._api = api
        self.accepted: set[str] = set()
        self.answers: Counter[int] = Counter()
        self.stop = asyncio.Event()

    async def client(self, number: int) -> None:
        """Run one client; retries have the same idempotency key."""
        count = 0
        while not self.stop.is_set():
            await self._request(f"{number}-{count}")
            count += 1

    async def _request(self, job_id: str) -> None:
        body = {"job_id": job_id, "scenes": TWO_SCENES}
        while job_id not in self.accepted:
            answer = await self._api.post(
                "/api/v3/audio/generate-scenes", json=body, headers={"Idempotency-Key": job_id}
            )
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                self.accepted.add(job_id)
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
                await asyncio.sleep(0.05)


async def test_kills_of_postgresql_neither_lose_nor_duplicate_accepted_jobs(
    server: KillablePostgres, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> None:
    """No lost event, no duplicate row, 503 and never 500; the api recovers by itself."""
    draws = random.Random(SEED)
    fixture = ApiServiceFixture(server.url, kafka, topic_prefix, store_folder)
    async with running_api(fixture.settings()) as api:
        flood = Flood(api)
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(flood.client(number))
            for _ in range(DEATHS):
                await asyncio.sleep(draws.uniform(*ALIVE_S))
                await server.kill()
                await server.start()
            flood.stop.set()

        async def published() -> bool | None:
            rows = await fixture.rows("SELECT count(*) AS n FROM outbox")
            return rows == [{"n": 0}] or None

        await eventually(published, within_s=30, what="an empty outbox")

    records = Counter((r["job_id"], r["run"], r["scene_index"]) for r in await fixture.published())
    expected = {(job, 1, scene) for job in flood.accepted for scene in (0, 1)}
    rows = await fixture.rows("SELECT job_id, run FROM runs")
    republished = sum(records.values()) - len(records)
    sys.stdout.write(
        f"SEGUE_CHAOS_SEED={SEED}: PostgreSQL killed {DEATHS} times: accepted "
        f"{len(flood.accepted)}, answers {dict(flood.answers)}, lost {len(expected - set(records))}"
        f", duplicate rows {len(rows) - len(flood.accepted)}, republished {republished}\n"
    )
    assert set(flood.answers) <= {202, 503}
    assert len(flood.accepted) > DEATHS
    assert set(records) == expected
    assert sorted((row["job_id"], row["run"]) for row in rows) == sorted(
        (job, 1) for job in flood.accepted
    )
