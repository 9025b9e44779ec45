"""Uploaded style samples: stored once, usable in a request, rejected with a reason."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from shared.settings import ScratchSettings
from shared.storage.keys import upload_key
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture, limits
from tests.support.servers import Database
from tests.support.style_audio import a_song, audio_file, quiet

pytestmark = pytest.mark.integration
STYLES = "/api/v3/audio/styles"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame")])
async def test_an_uploaded_style_sample_can_be_used_in_a_request(
    fixture: ApiFixture, container: str, codec: str
) -> None:
    """The request uses the response as it is; the same bytes are stored once."""
    song = audio_file(a_song(3.4), container=container, codec=codec)
    first = await fixture.client.post(STYLES, content=song)
    repeated = await fixture.client.post(STYLES, content=song)
    uploaded = first.json()
    requested = await fixture.post(
        job_id="mine", scenes=TWO_SCENES, audio_params={"style_audio": uploaded["style_audio"]}
    )
    (row, _) = await fixture.rows("SELECT value FROM outbox ORDER BY id")
    key = uploaded["style_audio"]["object"]

    assert first.status_code == repeated.status_code == 201
    assert repeated.json() == uploaded
    assert (uploaded["channels"], uploaded["sample_rate_hz"]) == (2, 32_000)
    assert abs(uploaded["duration_s"] - 3.4) < 0.1
    assert uploaded["size_bytes"] == len(song)
    assert await fixture.context.store.get(key) == song
    assert key.startswith(upload_key(""))
    assert requested.status_code == 202, requested.text
    assert key.encode() in row["value"]
    assert [info.key async for info in fixture.context.store.list_objects("uploads/")] == [key]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b"just some text, no music\n" * 9, "not audio"),
        (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1/\n", "not audio"),
        (audio_file(quiet(3.0)), "is silent"),
        (audio_file(a_song(0.6)), "at least 1 s"),
        (b"OggS" + bytes(4000), "damaged"),
        (audio_file(np.concatenate([a_song(0.4), quiet(3.0)], axis=1)), "silent after"),
    ],
    ids=["empty", "text", "playlist", "silent", "short", "damaged", "a click"],
)
async def test_the_api_rejects_an_unusable_style_sample(
    fixture: ApiFixture, body: bytes, message: str
) -> None:
    """422 with the field and the way out; nothing is stored."""
    answer = await fixture.client.post(STYLES, content=body)
    (error,) = answer.json()["errors"]

    assert answer.status_code == 422
    assert error["field"] == "style_audio"
    assert message in error["message"]
    assert "send" in error["message"]
    assert [info.key async for info in fixture.context.store.list_objects("uploads/")] == []


async def test_the_api_rejects_a_style_sample_over_the_limit(
    postgres: Database, store_folder: Path, tmp_path: Path
) -> None:
    """413 with the limit; the temporary file is deleted."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    small = limits(style_bytes_max=100_000)
    async with api_fixture(
        await postgres(), store_folder, limits=small, scratch=ScratchSettings(folder=scratch)
    ) as fixture:
        answer = await fixture.client.post(STYLES, content=audio_file(a_song(3.0)))

    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert list(scratch.iterdir()) == []


async def test_the_api_rejects_too_many_concurrent_uploads(fixture: ApiFixture) -> None:
    """Style samples and videos share the limit."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(fixture.context.settings.limits.uploads_max):
            await stack.enter_async_context(fixture.context.uploads.slot())
        answer = await fixture.client.post(STYLES, content=audio_file(a_song(1.5)))

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
