"""video.stitched on a real database: jobs, runs that start by themselves, dead letters."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.servers import Database

pytestmark = pytest.mark.integration
STITCHED = "video.stitched"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


@pytest.fixture
async def auto(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The same with AUTO_GENERATE_AUDIO."""
    async with api_fixture(await postgres(), store_folder, auto_generate=True) as fixture:
        yield fixture


def stitched(**fields: Any) -> bytes:
    """What upstream says, as bare JSON."""
    return json.dumps({"job_id": "up-1", "scenes": TWO_SCENES, **fields}).encode()


async def test_what_stitching_says_waits_to_be_asked(fixture: ApiFixture) -> None:
    """Without AUTO_GENERATE_AUDIO the job is there, and a POST that names it starts it."""
    await fixture.apply_record(STITCHED, stitched(audio_params={"prompt": "from upstream"}))
    told = await fixture.status("up-1")
    answer = await fixture.post(job_id="up-1")
    records = await fixture.rows("SELECT value FROM outbox ORDER BY id")

    assert told["audio_status"]["status"] == "pending"
    assert told["progress"]["stage"] == "audio_generation_pending"
    assert told["run"] == 0
    assert answer.status_code == 202
    assert json.loads(records[0]["value"])["params"]["prompt"] == "from upstream"


async def test_with_auto_generation_stitching_starts_a_run_once(auto: ApiFixture) -> None:
    """The same content again, even much later and written differently, changes nothing."""
    await auto.apply_record(STITCHED, stitched())
    await auto.apply_record(STITCHED, stitched(unknown="field"))
    other = stitched(scenes=[{"duration_s": 9}])
    await auto.apply_record(STITCHED, other)
    await auto.apply_record(STITCHED, stitched())
    await auto.apply_record(STITCHED, other)
    told = await auto.status("up-1")

    assert told["run"] == 2
    assert [scene["duration_s"] for scene in told["progress"]["scenes"]] == [9]
    assert await auto.rows("SELECT count(*) AS n FROM outbox") == [{"n": 3}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not json", "JSON"),
        (None, "no value"),
        (b'{"job_id": "up-1"}', "scenes: Field required"),
        (b'{"job_id": "a/b", "scenes": [{"duration_s": 1}]}', "job_id"),
        (stitched(scenes=[{"duration_s": 1e6}]), "scenes[0].duration_s"),
        (stitched(audio_params={"sync_mode": "bend"}), "audio_params.sync_mode"),
        (stitched(audio_params={"merge_with_video": True}), "video"),
    ],
)
async def test_what_stitching_says_wrongly_is_a_dead_letter_with_the_reason(
    auto: ApiFixture, value: bytes | None, reason: str
) -> None:
    """Whole, through the outbox, in the transaction that moves the offset; the next is read."""
    await auto.apply_record(STITCHED, value, key=b"k")
    await auto.apply_record(STITCHED, stitched(job_id="up-2"))
    letter, *rest = await auto.rows("SELECT * FROM outbox ORDER BY id")
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))

    assert (letter["topic"], letter["key"], letter["value"]) == (f"{STITCHED}.dlq", b"k", value)
    assert reason in headers["dlq-reason"].decode()
    assert headers["dlq-origin-topic"] == STITCHED.encode()
    assert headers["dlq-origin-offset"] == b"0"
    assert len(rest) == 2
    assert await auto.rows("SELECT job_id FROM jobs") == [{"job_id": "up-2"}]
