"""POST generate-scenes on a real database: one run per request, whatever happens around it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from services.api.settings import DatabaseSettings
from tests.api_line import TWO_SCENES, EdgeLine, api_settings, edge_line, limits
from tests.builders import a_scene, a_segment
from tests.servers import Database
from tests.unit.api.test_projection import a_failure, a_track

pytestmark = pytest.mark.integration
GENERATE = "/api/v3/audio/generate-scenes"


@pytest.fixture
async def line(postgres: Database, store_folder: Path) -> AsyncIterator[EdgeLine]:
    """The edge on a new database."""
    async with edge_line(await postgres(), store_folder) as line:
        yield line


async def test_the_first_answer_is_the_contracts(line: EdgeLine) -> None:
    """Fields, values and headers; an integer job id becomes text."""
    answer = await line.post(job_id=123, scenes=TWO_SCENES, audio_params={"fade_duration": 1.5})
    told = answer.json()

    assert answer.status_code == 202
    assert answer.headers["location"] == "/api/v3/audio/status/123"
    assert int(answer.headers["retry-after"]) > 0
    assert told["job_id"] == "123"
    assert told["status"] == "processing"
    assert told["message"] == "Audio generation started"
    assert told["audio_status"]["started_at"].endswith("Z")
    assert told["audio_status"]["estimated_duration"] == "20s"
    assert told["run"] == 1


async def test_a_run_is_one_transaction_with_a_record_per_scene_in_order(line: EdgeLine) -> None:
    """Job, run, scenes and outbox."""
    await line.post(job_id="j", scenes=TWO_SCENES, video="https://x.example/v.mp4")
    records = await line.rows("SELECT topic, key, value FROM outbox ORDER BY id")
    values = [json.loads(record["value"]) for record in records]

    assert {record["topic"] for record in records} == {"scene.requested"}
    assert {record["key"] for record in records} == {b"j"}
    assert [value["scene_index"] for value in values] == [0, 1]
    assert [value["duration_s"] for value in values] == [1.7, 2.3]
    assert values[0]["video"] == {"url": "https://x.example/v.mp4", "object": None}
    assert values[0]["params"]["fade_duration"] == 1.0


async def test_the_same_request_while_it_runs_is_answered_with_the_running_run(
    line: EdgeLine,
) -> None:
    """Nothing is made twice; what is left out comes from the job."""
    first = await line.post(job_id="j", scenes=TWO_SCENES)
    again = await line.post(job_id="j")

    assert again.status_code == 202
    assert again.json() == first.json()
    assert await line.rows("SELECT count(*) AS n FROM outbox") == [{"n": 2}]


async def test_a_different_request_while_one_runs_begins_a_run_that_supersedes_it(
    line: EdgeLine,
) -> None:
    """And brings its own records."""
    await line.post(job_id="j", scenes=TWO_SCENES)
    answer = await line.post(job_id="j", audio_params={"prompt": "Epic orchestral music"})
    rows = await line.rows("SELECT run, status FROM runs ORDER BY run")

    assert answer.json()["run"] == 2
    assert rows == [{"run": 1, "status": "superseded"}, {"run": 2, "status": "submitted"}]
    assert await line.rows("SELECT count(*) AS n FROM outbox") == [{"n": 4}]


@pytest.mark.parametrize("how", ["completed", "failed"])
async def test_after_a_run_ended_asking_again_begins_a_new_one(line: EdgeLine, how: str) -> None:
    """So that a client can try again."""
    await line.post(job_id="job-1", scenes=TWO_SCENES)
    ended = a_track(params=a_scene().params) if how == "completed" else a_failure()
    await line.hear(ended)
    assert (await line.status("job-1"))["audio_status"]["status"] == how
    answer = await line.post(job_id="job-1")

    assert answer.json()["run"] == 2
    assert (await line.status("job-1"))["audio_status"]["status"] == "processing"


async def test_fifty_equal_requests_at_once_begin_one_run(line: EdgeLine) -> None:
    """The lock on the job's row orders them."""
    answers = await asyncio.gather(*(line.post(job_id="j", scenes=TWO_SCENES) for _ in range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["run"] for answer in answers} == {1}
    assert await line.rows("SELECT count(*) AS n FROM outbox") == [{"n": 2}]


async def test_fifty_requests_with_one_key_at_once_get_one_answer(line: EdgeLine) -> None:
    """Even when the job's run has ended in between, the key keeps its first answer."""

    async def ask() -> Any:
        return await line.client.post(
            GENERATE,
            json={"job_id": "job-1", "scenes": TWO_SCENES},
            headers={"Idempotency-Key": "k-1"},
        )

    answers = await asyncio.gather(*(ask() for _ in range(50)))
    await line.hear(a_failure())
    late = await ask()

    assert {answer.status_code for answer in [*answers, late]} == {202}
    assert {answer.text for answer in [*answers, late]} == {answers[0].text}
    assert await line.rows("SELECT count(*) AS n FROM runs") == [{"n": 1}]


async def test_a_key_that_was_used_for_another_body_is_refused(line: EdgeLine) -> None:
    """422, and the field is named."""
    headers = {"Idempotency-Key": "k-1"}
    body = {"job_id": "j", "scenes": TWO_SCENES}
    await line.client.post(GENERATE, json=body, headers=headers)
    answer = await line.client.post(GENERATE, json={**body, "job_id": "k"}, headers=headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_a_refused_request_leaves_its_key_free(line: EdgeLine) -> None:
    """Nothing happened, so nothing is kept."""
    headers = {"Idempotency-Key": "k-1"}
    refused = await line.client.post(GENERATE, json={"job_id": "j"}, headers=headers)
    body = {"job_id": "j", "scenes": TWO_SCENES}
    accepted = await line.client.post(GENERATE, json=body, headers=headers)

    assert (refused.status_code, accepted.status_code) == (404, 202)


async def test_a_key_whose_first_request_still_runs_is_a_conflict(line: EdgeLine) -> None:
    """Somebody holds the key in a transaction that does not end."""
    holder = await asyncpg.connect(line.url)
    try:
        async with holder.transaction():
            await holder.execute(
                "INSERT INTO idempotency_keys VALUES ('k', 'h', null, null, now())"
            )
            answer = await line.client.post(
                GENERATE,
                json={"job_id": "j", "scenes": TWO_SCENES},
                headers={"Idempotency-Key": "k"},
            )
    finally:
        await holder.close()

    assert answer.status_code == 409
    assert "retry-after" in answer.headers


async def test_an_unknown_job_without_scenes_is_not_found(line: EdgeLine) -> None:
    """As a problem that says the way out."""
    answer = await line.post(job_id="nobody")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["instance"] == GENERATE
    assert "sending scenes" in answer.json()["detail"]


async def test_a_job_that_upstream_made_scene_by_scene_can_be_asked_again(
    line: EdgeLine,
) -> None:
    """Its scenes are known from its records; before they all are, the job has none."""
    await line.hear(a_scene(0, count=2))
    early = await line.post(job_id="job-1")
    await line.hear(a_scene(1, count=2), a_segment(0, count=2))
    answer = await line.post(job_id="job-1", audio_params={"prompt": "again"})

    assert early.status_code == 422
    assert early.json()["errors"][0]["field"] == "scenes"
    assert answer.json()["run"] == 2


@pytest.mark.parametrize(
    ("raw", "status", "field"),
    [
        (b"not json", 400, None),
        (b'{"job_id": "j"', 400, None),
        (b"[1, 2]", 422, "body"),
        (b"{}", 422, "job_id"),
        (b'{"job_id": "a/b"}', 422, "job_id"),
        (b'{"job_id": true}', 422, "job_id"),
        (b'{"job_id": "a\\u0000b"}', 422, "job_id"),
        (b'{"job_id": "\\ud800"}', 400, None),
        (b'{"job_id": "j", "scenes": [{"duration_s": -1}]}', 422, "scenes[0].duration_s"),
        (b'{"job_id": "j", "scenes": [{"duration_s": 0}]}', 422, "scenes[0].duration_s"),
        (b'{"job_id": "j", "scenes": [{"duration_s": NaN}]}', 422, "scenes[0].duration_s"),
        (b'{"job_id": "j", "scenes": [{"duration_s": 1e999}]}', 422, "scenes[0].duration_s"),
        (b'{"job_id": "j", "scenes": [{"duration_s": "1"}]}', 422, "scenes[0].duration_s"),
        (
            b'{"job_id": "j", "scenes": [{"duration_s": 1, "mood": "\\u0000"}]}',
            422,
            "scenes[0].mood",
        ),
        (b'{"job_id": "j", "audio_params": {"sync_mode": "bend"}}', 422, "audio_params.sync_mode"),
        (
            b'{"job_id": "j", "audio_params": {"fade_duration": NaN}}',
            422,
            "audio_params.fade_duration",
        ),
        (b'{"job_id": "j", "video": {"url": "ftp://x"}}', 422, "video.url"),
        (b'{"job_id": "j", "video": "file:///etc/passwd"}', 422, "video"),
        (b'{"job_id": "j", "video": {"object": "../../x"}}', 422, "video.object"),
        (b'{"job_id": "j", "video": {"object": "uploads/none"}}', 422, "video.object"),
    ],
)
async def test_a_wrong_body_is_answered_with_the_field_and_the_way_out(
    line: EdgeLine, raw: bytes, status: int, field: str | None
) -> None:
    """Never a 500, and nothing is kept."""
    answer = await line.client.post(
        GENERATE, content=raw, headers={"Content-Type": "application/json"}
    )
    problem = answer.json()

    assert (answer.status_code, problem["status"]) == (status, status)
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    if field is not None:
        assert problem["errors"][0]["field"] == field
        assert problem["errors"][0]["message"]
    assert await line.rows("SELECT job_id FROM jobs") == []


async def test_a_body_that_is_not_json_by_its_own_word_is_refused(line: EdgeLine) -> None:
    """415, and what to send."""
    answer = await line.client.post(GENERATE, content=b"x", headers={"Content-Type": "text/plain"})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(
    postgres: Database, store_folder: Path
) -> None:
    """Fifty megabytes are announced or come in parts: most of them are never taken."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(800):
            taken += 65_536
            yield b" " * 65_536

    small = limits(body_bytes_max=1_000_000)
    async with edge_line(await postgres(), store_folder, limits=small) as line:
        headers = {"Content-Type": "application/json"}
        unannounced = await line.client.post(GENERATE, content=endless(), headers=headers)
        announced = await line.client.post(
            GENERATE, content=b" ", headers={**headers, "Content-Length": "52428800"}
        )

    assert (unannounced.status_code, announced.status_code) == (413, 413)
    assert "1000000" in announced.json()["detail"]


@pytest.mark.parametrize("job_id", ["\N{MUSICAL KEYBOARD}" * 200, "a b", "ä.%~+", "..."])
async def test_a_legal_job_id_survives_the_way_through_url_and_database(
    line: EdgeLine, job_id: str
) -> None:
    """Emoji, spaces, percent signs."""
    answer = await line.post(job_id=job_id, scenes=TWO_SCENES)
    status = await line.client.get(f"/api/v3/audio/status/{quote(job_id, safe='')}")
    followed = await line.client.get(answer.headers["location"])

    assert status.json()["job_id"] == followed.json()["job_id"] == job_id


@pytest.mark.parametrize("name", ["a%2Fb", "a%00b", "a%5Cb", "%20", "x" * 201])
async def test_an_illegal_job_id_in_a_path_is_a_clear_answer(line: EdgeLine, name: str) -> None:
    """404 or 422 as a problem, on every path that takes one."""
    for path in (f"status/{name}", f"status/{name}/events", f"{name}/download", f"{name}/video"):
        answer = await line.client.get(f"/api/v3/audio/{path}")

        assert answer.status_code in {404, 422}
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_database_that_is_away_is_503_and_then_it_goes_on(line: EdgeLine) -> None:
    """Never a 500; nothing needs a restart."""
    name = urlsplit(line.url).path.lstrip("/")
    operator = await asyncpg.connect(line.url, database="postgres")
    try:
        await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        away = [await line.post(job_id="j", scenes=TWO_SCENES) for _ in range(3)]
        status = await line.client.get("/api/v3/audio/status/j")
        alive, ready = await line.client.get("/livez"), await line.client.get("/readyz")
        await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        back = await line.post(job_id="j", scenes=TWO_SCENES)
    finally:
        await operator.close()

    assert {answer.status_code for answer in [*away, status]} == {503}
    assert int(away[0].headers["retry-after"]) > 0
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert not ready.json()["checks"]["postgres"]["ok"]
    assert ready.json()["checks"]["store"]["ok"]
    assert back.status_code == 202


async def test_replicas_may_migrate_at_the_same_moment_and_again(
    postgres: Database, store_folder: Path
) -> None:
    """Four starts on one empty database, then one more."""
    url = await postgres()

    async def start() -> None:
        async with edge_line(url, store_folder, database=DatabaseSettings(url=url)):
            pass

    await asyncio.gather(*(start() for _ in range(4)))
    await start()
    assert api_settings(url, store_folder).database.url.get_secret_value() == url
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT number FROM schema_migrations")
    finally:
        await connection.close()

    assert [row["number"] for row in rows] == [1]
