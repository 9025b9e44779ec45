"""Invalid requests: each is rejected with its field and the way out; nothing is stored."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, limits
from tests.support.servers import Database

pytestmark = pytest.mark.integration
GENERATE = "/api/v3/audio/generate-scenes"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


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
        (b'{"job_id": "j", "scenes": [{"duration": 1}]}', 422, "scenes[0].duration"),
        (b'{"job_id": "j", "audio_params": {"fade": 1}}', 422, "audio_params.fade"),
        (b'{"job_id": "j", "video": {"url": "ftp://x"}}', 422, "video.url"),
        (b'{"job_id": "j", "video": "file:///etc/passwd"}', 422, "video"),
        (b'{"job_id": "j", "video": {"object": "../../x"}}', 422, "video.object"),
        (b'{"job_id": "j", "video": {"object": "uploads/none"}}', 422, "video.object"),
    ],
)
async def test_an_invalid_body_is_rejected_with_its_field(
    fixture: ApiFixture, raw: bytes, status: int, field: str | None
) -> None:
    """There is no 500, and nothing is stored."""
    answer = await fixture.client.post(
        GENERATE, content=raw, headers={"Content-Type": "application/json"}
    )
    problem = answer.json()

    assert (answer.status_code, problem["status"]) == (status, status)
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    if field is not None:
        assert problem["errors"][0]["field"] == field
        assert problem["errors"][0]["message"]
    assert await fixture.rows("SELECT job_id FROM jobs") == []


async def test_a_body_of_another_content_type_is_rejected(fixture: ApiFixture) -> None:
    """415 with the accepted type."""
    answer = await fixture.client.post(
        GENERATE, content=b"x", headers={"Content-Type": "text/plain"}
    )

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


async def test_a_body_over_the_limit_is_rejected_before_it_is_read(
    postgres: Database, store_folder: Path
) -> None:
    """With a length of fifty megabytes, or in chunks: most of them are never read."""
    sent_bytes = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent_bytes
        for _ in range(800):
            sent_bytes += 65_536
            yield b" " * 65_536

    small = limits(body_bytes_max=1_000_000)
    async with api_fixture(await postgres(), store_folder, limits=small) as fixture:
        headers = {"Content-Type": "application/json"}
        unannounced = await fixture.client.post(GENERATE, content=endless(), headers=headers)
        announced = await fixture.client.post(
            GENERATE, content=b" ", headers={**headers, "Content-Length": "52428800"}
        )

    assert (unannounced.status_code, announced.status_code) == (413, 413)
    assert sent_bytes < 2_000_000
    assert "1000000" in announced.json()["detail"]


@pytest.mark.parametrize("job_id", ["\N{MUSICAL KEYBOARD}" * 200, "a b", "ä.%~+", "..."])
async def test_a_valid_job_id_is_unchanged_by_url_and_database(
    fixture: ApiFixture, job_id: str
) -> None:
    """Emoji, spaces, percent signs."""
    answer = await fixture.post(job_id=job_id, scenes=TWO_SCENES)
    status = await fixture.client.get(f"/api/v3/audio/status/{quote(job_id, safe='')}")
    followed = await fixture.client.get(answer.headers["location"])

    assert status.json()["job_id"] == followed.json()["job_id"] == job_id


@pytest.mark.parametrize("name", ["a%2Fb", "a%00b", "a%5Cb", "%20", "x" * 201])
async def test_an_invalid_job_id_in_a_path_is_rejected(fixture: ApiFixture, name: str) -> None:
    """404 or 422 as a problem, on every path with a job id."""
    for path in (f"status/{name}", f"status/{name}/events", f"{name}/download", f"{name}/video"):
        answer = await fixture.client.get(f"/api/v3/audio/{path}")

        assert answer.status_code in {404, 422}
        assert answer.headers["content-type"] == "application/problem+json"
