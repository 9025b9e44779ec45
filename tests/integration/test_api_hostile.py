"""Small requests that would exhaust the api are rejected; others are answered meanwhile."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.api_fixture import (
    TWO_SCENES,
    ApiFixture,
    api_fixture,
    api_settings,
    limits,
    running_api,
)
from tests.support.film_clips import film_clips
from tests.support.servers import Database

pytestmark = pytest.mark.integration
GENERATE = "/api/v3/audio/generate-scenes"
VIDEOS = "/api/v3/videos"
JSON = {"Content-Type": "application/json"}
FLOOD = b'{"job_id": "j", "scenes": [' + b"1," * 2_400_000 + b"1]}"
OTHERS_TRACK = "jobs/00112233445566778899aabbccddeeff/runs/1/track.mp3"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_a_hostile_body_has_a_short_response(fixture: ApiFixture) -> None:
    """Few errors, each short, and the count of the others; nothing is stored."""
    scenes = b",".join([b'{"duration_s": "1", "duratoin": 1}'] * 1000)
    name = b"x" * 1_000_000
    bodies = {
        b'{"job_id": "j", "scenes": [' + scenes + b"]}": (422, "1995 more"),
        b'{"job_id": "j", "' + name + b'": 1}': (422, "unknown field"),
        b'{"job_id": "' + name + b'"}': (422, "characters"),
        b'{"job_id": "j", "video": {"object": "' + name + b'"}}': (422, "not found"),
        b'{"job_id": "j", "audio_params": {"sync_mode": "' + name + b'"}}': (422, "sync_mode"),
        b'{"job_id": ' + b"1" * 90 + b', "audio_params": {"max_cost": 1e999}}': (422, "max_cost"),
        b'{"job_id": "j", "job_id": "k"}': (400, "twice"),
        b'{"job_id": "\\udc00"}': (400, "JSON"),
        b'{"job_id": "j", "video": ' + b"[" * 1000: (400, "nested"),
        b"\xef\xbb\xbf{}": (400, "JSON"),
        FLOOD: (422, "at most 1000 scenes are allowed (SEGUE_SCENES_MAX)"),
    }
    for body, (status, text) in bodies.items():
        answer = await fixture.client.post(GENERATE, content=body, headers=JSON)

        assert answer.status_code == status, answer.text[:300]
        assert text in answer.text
        assert len(answer.json().get("errors", [])) <= 32
        assert len(answer.content) < 30_000
    assert await fixture.rows("SELECT job_id FROM jobs") == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({**JSON, "Origin": "https://evil.example"}, 403),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**JSON, "Host": "evil.example"}, 400),
        ({"Content-Type": "application/json; charset=utf-8"}, 202),
        ({**JSON, "Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 202),
    ],
)
async def test_a_page_of_another_site_cannot_start_a_run(
    fixture: ApiFixture, headers: dict[str, str], status: int
) -> None:
    """Its simple requests have another type or origin; no job is created."""
    body = b'{"job_id": "j", "scenes": [{"duration_s": 1}]}'
    answer = await fixture.client.post(GENERATE, content=body, headers=headers)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/")
    assert len(await fixture.rows("SELECT job_id FROM jobs")) == (status == 202)


async def test_no_response_redirects(fixture: ApiFixture) -> None:
    """A redirect would be built from the client's Host."""
    for path in ("/livez/", "/api/v3/videos/", "/docs/", f"{GENERATE}/"):
        answer = await fixture.client.get(path)

        assert answer.status_code == 404, path


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/mixed", "text/html"])
async def test_an_upload_has_a_media_type_or_none(fixture: ApiFixture, kind: str) -> None:
    """A form or a text of a page is rejected before it is received."""
    answer = await fixture.client.post(VIDEOS, content=b"x", headers={"Content-Type": kind})

    assert answer.status_code == 415
    assert "application/octet-stream" in answer.json()["detail"]


@pytest.mark.parametrize(
    "key", [OTHERS_TRACK, "cache/abc/clip.mp3", "uploads/x", "uploads/../jobs/x", "uploads"]
)
async def test_a_request_names_only_uploads(fixture: ApiFixture, key: str) -> None:
    """The track of another job exists, and is not readable through a job of one's own."""
    await fixture.context.store.put(OTHERS_TRACK, b"music of another job")
    await fixture.context.store.put("cache/abc/clip.mp3", b"music")
    video = await fixture.post(job_id="j", scenes=TWO_SCENES, video={"object": key})
    style = await fixture.post(
        job_id="j", scenes=TWO_SCENES, audio_params={"style_audio": {"object": key}}
    )

    assert (video.status_code, style.status_code) == (422, 422)
    assert video.json()["errors"][0]["field"] == "video.object"
    assert style.json()["errors"][0]["field"] == "audio_params.style_audio.object"
    assert await fixture.rows("SELECT job_id FROM jobs") == []


async def test_slow_and_large_requests_do_not_delay_others(
    postgres: Database, store_folder: Path
) -> None:
    """More slow bodies than there are places, and floods of JSON: a normal job and upload pass."""
    settings = api_settings(
        await postgres(),
        store_folder,
        limits=limits(requests_max=8, uploads_max=2, receive_s=1.0),
    )
    waits_s: list[float] = []
    async with running_api(settings) as api:
        slow = [asyncio.create_task(_post_slowly(api, path)) for path in (GENERATE, VIDEOS) * 12]
        floods = [
            asyncio.create_task(api.post(GENERATE, content=FLOOD, headers=JSON)) for _ in range(4)
        ]
        watching = asyncio.create_task(_watch(api, waits_s))
        await asyncio.sleep(0.3)
        job = await api.post(GENERATE, json={"job_id": "mine", "scenes": TWO_SCENES})
        film = await api.post(VIDEOS, content=film_clips().bikes.read_bytes())
        flooded = await asyncio.gather(*floods)
        rejected = await asyncio.gather(*slow)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        error = await api.get("/nothing")
        media = await api.get("/api/v3/audio/mine/download")

    sys.stdout.write(f"livez during slow and large requests: at most {max(waits_s):.3f} s\n")
    assert (job.status_code, film.status_code) == (202, 201)
    assert {answer.status_code for answer in flooded} == {422}
    assert set(rejected) == {b"HTTP/1.1 408 Request Timeout"}
    assert max(waits_s) < 1.0
    assert [a.headers["x-content-type-options"] for a in (job, film, error, media)] == (
        ["nosniff"] * 4
    )


async def _post_slowly(api: httpx.AsyncClient, path: str) -> bytes:
    """Send a body of one byte every 200 ms; return the status of the response."""
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    kind = "Content-Type: application/json\r\n" if path == GENERATE else ""
    writer.write(f"{head}{kind}\r\n".encode())
    status = asyncio.create_task(reader.readline())
    async with asyncio.timeout(20):
        while not (await asyncio.wait({status}, timeout=0.2))[0]:
            writer.write(b" ")
    writer.close()
    await writer.wait_closed()
    return status.result().strip()


async def _watch(api: httpx.AsyncClient, waits_s: list[float]) -> None:
    """Measure how long `livez` takes, on connections of its own."""
    loop = asyncio.get_running_loop()
    while True:
        start_s = loop.time()
        reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
        try:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        finally:
            writer.close()
            await writer.wait_closed()
        waits_s.append(loop.time() - start_s)
        await asyncio.sleep(0.02)
