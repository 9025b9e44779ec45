"""Style samples handed in over HTTP: kept once, named in a request, refused in words."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

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
async def test_a_style_that_is_handed_in_can_be_asked_for(
    fixture: ApiFixture, container: str, codec: str
) -> None:
    """What the answer says goes into the request as it is; the same bytes are kept once."""
    song = audio_file(a_song(3.4), container=container, codec=codec)
    first = await fixture.client.post(STYLES, content=song)
    again = await fixture.client.post(STYLES, content=song)
    told = first.json()
    asked = await fixture.post(
        job_id="mine", scenes=TWO_SCENES, audio_params={"style_audio": told["style_audio"]}
    )
    (row, _) = await fixture.rows("SELECT value FROM outbox ORDER BY id")
    key = told["style_audio"]["object"]

    assert first.status_code == again.status_code == 201
    assert again.json() == told
    assert (told["channels"], told["sample_rate_hz"]) == (2, 32_000)
    assert abs(told["duration_s"] - 3.4) < 0.1
    assert told["size_bytes"] == len(song)
    assert await fixture.context.store.get(key) == song
    assert key.startswith(upload_key(""))
    assert asked.status_code == 202, asked.text
    assert key.encode() in row["value"]
    assert [found.key async for found in fixture.context.store.list_objects("uploads/")] == [key]


@pytest.mark.parametrize(
    ("body", "words"),
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
async def test_what_cannot_be_continued_is_refused_in_words(
    fixture: ApiFixture, body: bytes, words: str
) -> None:
    """422 naming the field and the way out; nothing is kept."""
    answer = await fixture.client.post(STYLES, content=body)
    (error,) = answer.json()["errors"]

    assert answer.status_code == 422
    assert error["field"] == "style_audio"
    assert words in error["message"]
    assert "send" in error["message"]
    assert [found.key async for found in fixture.context.store.list_objects("uploads/")] == []


async def test_a_style_beyond_the_limit_is_refused_naming_it(
    postgres: Database, store_folder: Path, tmp_path: Path
) -> None:
    """And its temporary file is gone."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    small = limits(style_bytes_max=100_000)
    async with api_fixture(
        await postgres(), store_folder, limits=small, scratch_dir=scratch
    ) as fixture:
        answer = await fixture.client.post(STYLES, content=audio_file(a_song(3.0)))

    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert list(scratch.iterdir()) == []


async def test_no_more_come_in_at_once_than_may(fixture: ApiFixture) -> None:
    """They share their places with videos."""
    for _ in range(fixture.context.settings.limits.uploads_max):
        await fixture.context.uploads.acquire()

    answer = await fixture.client.post(STYLES, content=audio_file(a_song(1.5)))

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
