"""video.stitched on a real database: jobs, automatic runs, dead letters."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api.domain.run_spec import stitched_digest
from shared.contract.events import VideoStitched
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
    """Yield the api with AUTO_GENERATE_AUDIO."""
    async with api_fixture(await postgres(), store_folder, auto_generate=True) as fixture:
        yield fixture


def stitched(**fields: Any) -> bytes:
    """Return a record of upstream as bare JSON."""
    return json.dumps({"job_id": "up-1", "scenes": TWO_SCENES, **fields}).encode()


async def test_a_stitched_video_waits_for_a_request(fixture: ApiFixture) -> None:
    """Without AUTO_GENERATE_AUDIO the job is created, and a POST with its id starts a run."""
    await fixture.apply_record(STITCHED, stitched(audio_params={"prompt": "from upstream"}))
    status = await fixture.status("up-1")
    answer = await fixture.post(job_id="up-1")
    records = await fixture.rows("SELECT value FROM outbox ORDER BY id")

    assert status["audio_status"]["status"] == "pending"
    assert status["progress"]["stage"] == "audio_generation_pending"
    assert status["run"] == 0
    assert answer.status_code == 202
    assert json.loads(records[0]["value"])["params"]["prompt"] == "from upstream"


async def test_with_auto_generation_a_stitched_video_starts_a_run_once(auto: ApiFixture) -> None:
    """The same content again, even later and serialized differently, changes nothing."""
    await auto.apply_record(STITCHED, stitched())
    await auto.apply_record(STITCHED, stitched(unknown="field"))
    other = stitched(scenes=[{"duration_s": 9}])
    await auto.apply_record(STITCHED, other)
    await auto.apply_record(STITCHED, stitched())
    await auto.apply_record(STITCHED, other)
    status = await auto.status("up-1")

    assert status["run"] == 2
    assert [scene["duration_s"] for scene in status["progress"]["scenes"]] == [9]
    assert await auto.rows("SELECT count(*) AS n FROM outbox") == [{"n": 3}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not json", "JSON"),
        (None, "no value"),
        (b'{"job_id": "up-1"}', "scenes: is required"),
        (b'{"job_id": "a/b", "scenes": [{"duration_s": 1}]}', "job_id"),
        (stitched(scenes=[{"duration_s": 1e6}]), "scenes[0].duration_s"),
        (stitched(audio_params={"sync_mode": "bend"}), "audio_params.sync_mode"),
        (stitched(audio_params={"merge_with_video": True}), "video"),
        (stitched(audio_params={"fade": 2}), "audio_params.fade: unknown field: use fade_duration"),
        (stitched(scenes=[{"duration": 2}]), '"duration" is unknown: use duration_s'),
    ],
)
async def test_an_invalid_stitched_record_is_dead_lettered_with_the_reason(
    auto: ApiFixture, value: bytes | None, reason: str
) -> None:
    """The dead letter goes through the outbox in the transaction that moves the offset."""
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


async def test_a_job_of_an_earlier_version_with_unknown_parameters_stays_usable(
    auto: ApiFixture,
) -> None:
    """They were ignored when it was read; a replay changes nothing, a request starts a run."""
    old = stitched(audio_params={"fade": 2, "prompt": "harp"})
    await auto.apply_record(STITCHED, stitched())
    digest = stitched_digest(VideoStitched.model_validate_json(old))
    await auto.rows(
        "UPDATE jobs SET audio_params = $1::text::jsonb, stitched_hashes = ARRAY[$2] RETURNING 1",
        '{"fade": 2, "prompt": "harp"}',
        digest,
    )
    await auto.apply_record(STITCHED, old)
    answer = await auto.post(job_id="up-1")
    outbox = await auto.rows("SELECT topic, value FROM outbox ORDER BY id")

    assert answer.status_code == 202
    assert {record["topic"] for record in outbox} == {"scene.requested"}
    assert json.loads(outbox[-1]["value"])["params"]["prompt"] == "harp"
