"""POST generate-scenes on a real database: one run per request, also under concurrency."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from services.api.database.migrate import migrations
from services.api.settings import DatabaseSettings
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, api_settings
from tests.support.event_builders import a_scene, a_segment
from tests.support.run_builders import a_failure, a_track
from tests.support.servers import Database

pytestmark = pytest.mark.integration
GENERATE = "/api/v3/audio/generate-scenes"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_the_response_is_that_of_the_contract(fixture: ApiFixture) -> None:
    """Fields, values and headers; an integer job id becomes text."""
    answer = await fixture.post(job_id=123, scenes=TWO_SCENES, audio_params={"fade_duration": 1.5})
    response = answer.json()

    assert answer.status_code == 202
    assert answer.headers["location"] == "/api/v3/audio/status/123"
    assert int(answer.headers["retry-after"]) > 0
    assert response["job_id"] == "123"
    assert response["status"] == "processing"
    assert response["message"] == "Audio generation started"
    assert response["audio_status"]["started_at"].endswith("Z")
    assert response["audio_status"]["estimated_duration"] == "2s"
    assert response["run"] == 1


async def test_a_run_has_an_outbox_record_per_scene_in_order(
    fixture: ApiFixture,
) -> None:
    """The records have the job as key and the parameters of the request."""
    await fixture.post(job_id="j", scenes=TWO_SCENES, video="https://x.example/v.mp4")
    records = await fixture.rows("SELECT topic, key, value FROM outbox ORDER BY id")
    values = [json.loads(record["value"]) for record in records]

    assert {record["topic"] for record in records} == {"scene.requested"}
    assert {record["key"] for record in records} == {b"j"}
    assert [value["scene_index"] for value in values] == [0, 1]
    assert [value["duration_s"] for value in values] == [1.7, 2.3]
    assert values[0]["video"] == {"url": "https://x.example/v.mp4", "object": None}
    assert values[0]["params"]["fade_duration"] == 1.0


async def test_a_repeated_request_returns_the_running_run(
    fixture: ApiFixture,
) -> None:
    """No record is added; omitted fields come from the job."""
    first = await fixture.post(job_id="j", scenes=TWO_SCENES)
    repeated = await fixture.post(job_id="j")

    assert repeated.status_code == 202
    assert repeated.json() == first.json()
    assert await fixture.rows("SELECT count(*) AS n FROM outbox") == [{"n": 2}]


async def test_a_different_request_supersedes_the_running_run(
    fixture: ApiFixture,
) -> None:
    """The new run has its own records."""
    await fixture.post(job_id="j", scenes=TWO_SCENES)
    answer = await fixture.post(job_id="j", audio_params={"prompt": "Epic orchestral music"})
    rows = await fixture.rows("SELECT run, status FROM runs ORDER BY run")

    assert answer.json()["run"] == 2
    assert rows == [{"run": 1, "status": "superseded"}, {"run": 2, "status": "submitted"}]
    assert await fixture.rows("SELECT count(*) AS n FROM outbox") == [{"n": 4}]


@pytest.mark.parametrize("how", ["completed", "failed"])
async def test_a_request_after_a_run_ended_starts_a_new_run(fixture: ApiFixture, how: str) -> None:
    """So a client can retry a failed job."""
    await fixture.post(job_id="job-1", scenes=TWO_SCENES)
    ended = a_track(params=a_scene().params) if how == "completed" else a_failure()
    await fixture.apply(ended)
    assert (await fixture.status("job-1"))["audio_status"]["status"] == how
    answer = await fixture.post(job_id="job-1")

    assert answer.json()["run"] == 2
    assert (await fixture.status("job-1"))["audio_status"]["status"] == "processing"


async def test_fifty_concurrent_equal_requests_start_one_run(fixture: ApiFixture) -> None:
    """The lock on the job's row orders them."""
    answers = await asyncio.gather(
        *(fixture.post(job_id="j", scenes=TWO_SCENES) for _ in range(50))
    )

    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["run"] for answer in answers} == {1}
    assert await fixture.rows("SELECT count(*) AS n FROM outbox") == [{"n": 2}]


async def test_fifty_concurrent_equal_requests_after_a_run_ended_start_one_run(
    fixture: ApiFixture,
) -> None:
    """The job exists already, so only the lock on its row orders them."""
    await fixture.post(job_id="job-1", scenes=TWO_SCENES)
    await fixture.apply(a_failure())
    answers = await asyncio.gather(*(fixture.post(job_id="job-1") for _ in range(50)))

    assert {(answer.status_code, answer.json().get("run")) for answer in answers} == {(202, 2)}
    assert await fixture.rows("SELECT count(*) AS n FROM outbox") == [{"n": 4}]


async def test_fifty_concurrent_requests_with_one_key_get_the_same_response(
    fixture: ApiFixture,
) -> None:
    """Also a request after the job's run has ended gets the first response of the key."""

    async def post() -> Any:
        return await fixture.client.post(
            GENERATE,
            json={"job_id": "job-1", "scenes": TWO_SCENES},
            headers={"Idempotency-Key": "k-1"},
        )

    answers = await asyncio.gather(*(post() for _ in range(50)))
    await fixture.apply(a_failure())
    late = await post()

    assert {answer.status_code for answer in [*answers, late]} == {202}
    assert {answer.text for answer in [*answers, late]} == {answers[0].text}
    assert await fixture.rows("SELECT count(*) AS n FROM runs") == [{"n": 1}]


async def test_a_key_that_was_used_for_another_body_is_rejected(fixture: ApiFixture) -> None:
    """422 with the field."""
    headers = {"Idempotency-Key": "k-1"}
    body = {"job_id": "j", "scenes": TWO_SCENES}
    await fixture.client.post(GENERATE, json=body, headers=headers)
    answer = await fixture.client.post(GENERATE, json={**body, "job_id": "k"}, headers=headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_a_rejected_request_does_not_use_its_key(fixture: ApiFixture) -> None:
    """Nothing is stored for it."""
    headers = {"Idempotency-Key": "k-1"}
    rejected = await fixture.client.post(GENERATE, json={"job_id": "j"}, headers=headers)
    body = {"job_id": "j", "scenes": TWO_SCENES}
    accepted = await fixture.client.post(GENERATE, json=body, headers=headers)

    assert (rejected.status_code, accepted.status_code) == (404, 202)


async def test_a_key_whose_first_request_still_runs_is_a_conflict(fixture: ApiFixture) -> None:
    """Another transaction holds the key and does not end; the response is 409 with Retry-After."""
    holder = await asyncpg.connect(fixture.url)
    try:
        async with holder.transaction():
            await holder.execute(
                "INSERT INTO idempotency_keys VALUES ('k', 'h', null, null, now())"
            )
            answer = await fixture.client.post(
                GENERATE,
                json={"job_id": "j", "scenes": TWO_SCENES},
                headers={"Idempotency-Key": "k"},
            )
    finally:
        await holder.close()

    assert answer.status_code == 409
    assert "retry-after" in answer.headers


async def test_an_unknown_job_without_scenes_is_not_found(fixture: ApiFixture) -> None:
    """The problem names the way out."""
    answer = await fixture.post(job_id="unknown")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["instance"] == GENERATE
    assert "create it with POST /api/v3/audio/generate-scenes" in answer.json()["detail"]


async def test_a_job_started_by_upstream_can_be_requested_again(
    fixture: ApiFixture,
) -> None:
    """Its scenes are known from its records; until all are read, the job has none."""
    await fixture.apply(a_scene(0, count=2))
    early = await fixture.post(job_id="job-1")
    await fixture.apply(a_scene(1, count=2), a_segment(0, count=2))
    answer = await fixture.post(job_id="job-1", audio_params={"prompt": "again"})

    assert early.status_code == 422
    assert early.json()["errors"][0]["field"] == "scenes"
    assert answer.json()["run"] == 2


async def test_an_unavailable_database_is_503_until_it_is_back(fixture: ApiFixture) -> None:
    """There is no 500, and no restart is needed."""
    name = urlsplit(fixture.url).path.lstrip("/")
    operator = await asyncpg.connect(fixture.url, database="postgres")
    try:
        await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        unavailable = [await fixture.post(job_id="j", scenes=TWO_SCENES) for _ in range(3)]
        status = await fixture.client.get("/api/v3/audio/status/j")
        alive, ready = await fixture.client.get("/livez"), await fixture.client.get("/readyz")
        await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        back = await fixture.post(job_id="j", scenes=TWO_SCENES)
    finally:
        await operator.close()

    assert {answer.status_code for answer in [*unavailable, status]} == {503}
    assert int(unavailable[0].headers["retry-after"]) > 0
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert not ready.json()["checks"]["postgres"]["ok"]
    assert ready.json()["checks"]["store"]["ok"]
    assert back.status_code == 202


async def test_replicas_can_migrate_concurrently_and_again(
    postgres: Database, store_folder: Path
) -> None:
    """Four starts on one empty database, then one more."""
    url = await postgres()

    async def start() -> None:
        async with api_fixture(url, store_folder, database=DatabaseSettings(url=url)):
            pass

    await asyncio.gather(*(start() for _ in range(4)))
    await start()
    assert api_settings(url, store_folder).database.url.get_secret_value() == url
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT number FROM schema_migrations")
    finally:
        await connection.close()

    assert [row["number"] for row in rows] == [number for number, _ in migrations()]
