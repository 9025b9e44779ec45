"""The api is killed between each two steps: an accepted request ends the same."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from shared.contract.events import AudioMerged
from shared.http.server import free_ports
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture, report, run_concurrently
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.history import Fact
from tests.faults.harness.steps import Point, gaps
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

JOB = "over HTTP"
SCENES = [{"description": "a calm lake", "duration_s": seconds} for seconds in (1.7, 1.25)]
AT_ONCE = 4
DONE_S = 90.0
_NOT_OF_THE_ROW = {"started_at", "generated_at", "prediction_id", "generation_s", "cost_usd"}
_KEYS = {"runs": "run", "scenes": "scene_index", "outbox": "id"}


class Client:
    """Requests one job and polls its status while the api may be down."""

    def __init__(self, fixture: FaultFixture, http: httpx.AsyncClient) -> None:
        self._fixture = fixture
        self._http = http

    async def request(self) -> None:
        """Post until accepted; retries have the same idempotency key."""
        body = {"job_id": JOB, "scenes": SCENES}

        async def poll() -> bool | None:
            try:
                answer = await self._http.post(
                    "/api/v3/audio/generate-scenes", json=body, headers={"Idempotency-Key": "one"}
                )
            except httpx.TransportError:
                return None
            return answer.status_code == httpx.codes.ACCEPTED or None

        await eventually(poll, within_s=DONE_S, what="the request accepted")

    async def follow(self) -> None:
        """Poll and record the status until the run is complete."""

        async def poll() -> bool | None:
            try:
                answer = await self._http.get(f"/api/v3/audio/status/{JOB}")
            except httpx.TransportError:
                return None
            if answer.status_code != httpx.codes.OK:
                return None
            status = answer.json()
            self._fixture.history.status(JOB, status["run"], status["state"])
            return status["state"] == "completed" or None

        await eventually(poll, within_s=DONE_S, what=f"the end in {self._fixture.folder}")


async def _case(kafka: KafkaServer, database: str, folder: Path, point: Point | None) -> list[Fact]:
    """Run one job; kill and restart the api at `point` unless None; return the history."""
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    async with (
        fault_fixture(kafka, folder) as fixture,
        httpx.AsyncClient(base_url=base, timeout=10) as http,
    ):
        fixture.environment |= {
            "DATABASE_URL": database,
            "SEGUE_API_PORT": str(port),
            "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
        }
        kinds = ["segment.generated", AudioMerged.kind]
        fixture.history.wanted(JOB, scene_count=len(SCENES), events=kinds)
        others = [fixture.service("generator"), fixture.service("merger")]
        dying, api = fixture.service("api", at=point), fixture.service("api")
        client = Client(fixture, http)
        try:
            for service in others:
                await service.start()
            starting = asyncio.create_task(_start_api(dying if point else None, api))
            await client.request()
            await client.follow()
            await starting
            for service in (api, *others):
                assert await service.stop() == 0
        finally:
            for service in (dying, api, *others):
                await service.kill()
        await _write_rows(fixture, database)
        return await fixture.collect_facts()


async def _start_api(dying: ForkedService | None, api: ForkedService) -> None:
    """Start `dying`, wait for its death, then start `api`."""
    if dying is not None:
        await dying.start()
        assert await dying.ended(within_s=60) == -signal.SIGKILL, str(dying.log)
    await api.start()
    await api.ready()


async def _write_rows(fixture: FaultFixture, database: str) -> None:
    connection = await asyncpg.connect(database, timeout=10)
    try:
        for table, key in _KEYS.items():
            for row in await connection.fetch(f"SELECT * FROM {table}"):  # noqa: S608 - constant names
                values = {name: _plain(value) for name, value in row.items()}
                compared = {n: v for n, v in values.items() if n not in _NOT_OF_THE_ROW}
                fixture.history.row(table, str(row[key]), compared)
    finally:
        await connection.close()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | list | None) else repr(value)


async def test_an_api_killed_at_any_step_completes_the_accepted_request(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Every gap of request, relay and projection, each with its own topics and database."""
    points: Sequence[Point | None] = [None, *gaps("api")]
    databases = [await postgres() for _ in points]

    undisturbed, *histories = await run_concurrently(
        (
            _case(kafka, database, tmp_path / str(point).replace(":", "-"), point)
            for point, database in zip(points, databases, strict=True)
        ),
        at_once=AT_ONCE,
    )

    failures = {}
    for point, facts in zip(points[1:], histories, strict=True):
        wrong = checker.violations(facts) + checker.differences(facts, undisturbed)
        if wrong:
            failures[str(point)] = wrong
    sys.stdout.write(
        report(f"api, {len(histories) - len(failures)} of {len(histories)} steps", histories) + "\n"
    )
    assert not checker.violations(undisturbed)
    assert not failures
