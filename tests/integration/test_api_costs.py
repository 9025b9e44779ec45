"""Cost of a run on a real database: estimate, cost limit, costs and savings."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api.database import jobs, outbox, runs
from services.api.settings import DefaultSettings
from shared.contract.events import JobFailed, Origin, Stage
from shared.pricing import PricingSettings, ReplicateAccount
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.run_builders import a_failure
from tests.support.servers import Database

pytestmark = pytest.mark.integration
REPLICATE = PricingSettings(wanted="replicate")
#: 1.7 and 2.3 s: 2 + (3 + 1) seconds of music, twice as many of work, $0.0014 each
COST_USD = 0.0168


@pytest.fixture
async def paid(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield an api whose generator uses Replicate."""
    async with api_fixture(await postgres(), store_folder, pricing=REPLICATE) as fixture:
        yield fixture


async def nothing_stored(fixture: ApiFixture) -> bool:
    """Return whether there is no job, run, outbox record and idempotency key."""
    counts = await fixture.rows(
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM runs) + "
        "(SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency_keys) AS n"
    )
    return counts == [{"n": 0}]


async def test_the_estimate_of_synth_is_free(postgres: Database, store_folder: Path) -> None:
    """Synth costs nothing and takes a fifth of the music's duration."""
    pricing = PricingSettings(wanted="synth")
    async with api_fixture(await postgres(), store_folder, pricing=pricing) as fixture:
        response = (await fixture.post(job_id="j", scenes=TWO_SCENES)).json()

    assert response["estimate"] == {
        "cost_usd": 0.0,
        "music_s": 6,
        "seconds": 1.2,
        "provider": "synth",
    }
    assert response["audio_status"]["estimated_duration"] == "2s"


async def test_the_api_returns_the_estimate_of_a_paid_run(paid: ApiFixture) -> None:
    """The first response, the response to a repeated request and the status have it."""
    first = await paid.post(job_id="j", scenes=TWO_SCENES)
    repeated = await paid.post(job_id="j", scenes=TWO_SCENES)
    estimate = first.json()["estimate"]

    assert estimate == {
        "cost_usd": COST_USD,
        "music_s": 6,
        "seconds": 18.0,
        "provider": "replicate",
    }
    assert first.json()["audio_status"]["estimated_duration"] == "18s"
    assert repeated.json() == first.json()
    assert (await paid.status("j"))["estimate"] == estimate


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k-1"}])
async def test_the_api_rejects_a_run_over_its_cost_limit_and_stores_nothing(
    paid: ApiFixture, headers: dict[str, str]
) -> None:
    """The problem names field, estimate, limit and ways out; the key can be used again."""
    body: dict[str, Any] = {"job_id": "j", "scenes": TWO_SCENES}

    async def post_with_limit(max_cost: float) -> Any:
        return await paid.client.post(
            "/api/v3/audio/generate-scenes",
            json={**body, "audio_params": {"max_cost": max_cost}},
            headers=headers,
        )

    rejected = await post_with_limit(0.01)
    problem = rejected.json()

    assert rejected.status_code == 422
    assert rejected.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in problem["errors"]] == ["audio_params.max_cost"]
    for text in ("$0.0168", "$0.01 ", "raise max_cost", "shorter scenes", "error_strategy"):
        assert text in problem["detail"]
    assert await nothing_stored(paid)
    assert (await post_with_limit(COST_USD)).status_code == 202


async def test_a_rejected_run_does_not_supersede_the_running_one(paid: ApiFixture) -> None:
    """The status is still that of the first run."""
    await paid.post(job_id="j", scenes=TWO_SCENES)
    rejected = await paid.post(
        job_id="j", scenes=[{"duration_s": 30}] * 9, audio_params={"max_cost": 0.05}
    )
    status = await paid.status("j")

    assert rejected.status_code == 422
    assert (status["run"], status["state"], len(status["progress"]["scenes"])) == (
        1,
        "submitted",
        2,
    )


async def test_a_running_run_keeps_its_estimate(postgres: Database, store_folder: Path) -> None:
    """After a restart with higher prices a repeated request gets the first response."""
    url, params = await postgres(), {"max_cost": COST_USD}
    expensive = PricingSettings(wanted="replicate", replicate=ReplicateAccount(usd_per_s=1))
    async with api_fixture(url, store_folder, pricing=REPLICATE) as fixture:
        first = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=params)
    async with api_fixture(url, store_folder, pricing=expensive) as fixture:
        repeated = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=params)
        await fixture.apply(a_failure().model_copy(update={"job_id": "j"}))
        new_run = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=params)

    assert (first.status_code, repeated.status_code) == (202, 202)
    assert repeated.json() == first.json()
    assert new_run.status_code == 422


async def test_a_run_with_the_error_strategy_starts_over_its_cost_limit(
    paid: ApiFixture,
) -> None:
    """The generator gets the limit and the strategy."""
    audio_params = {"max_cost": 0.01, "on_max_cost": "error_strategy"}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=audio_params)
    (params,) = await paid.rows("SELECT params FROM runs")

    assert answer.status_code == 202
    assert answer.json()["estimate"]["cost_usd"] > 0.01
    assert '"max_cost": 0.01' in params["params"]
    assert '"on_max_cost": "error_strategy"' in params["params"]


async def test_the_cost_limit_of_the_settings_is_the_default(
    postgres: Database, store_folder: Path
) -> None:
    """AUDIO_MAX_COST applies unless the request has its own limit."""
    defaults = DefaultSettings(max_cost=0.01)
    url = await postgres()
    async with api_fixture(url, store_folder, pricing=REPLICATE, defaults=defaults) as fixture:
        rejected = await fixture.post(job_id="j", scenes=TWO_SCENES)
        own = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params={"max_cost": 1})

    assert rejected.status_code == 422
    assert "AUDIO_MAX_COST" in rejected.json()["detail"]
    assert own.status_code == 202


@pytest.mark.parametrize("auto", [True, False])
async def test_a_stitched_video_over_its_cost_limit_is_dead_lettered_if_it_would_start(
    postgres: Database, store_folder: Path, *, auto: bool
) -> None:
    """Without AUTO_GENERATE_AUDIO the job waits, and the request to start it is rejected."""
    value = b'{"job_id": "up", "scenes": [{"duration_s": 9}], "audio_params": {"max_cost": 0.001}}'
    async with api_fixture(
        await postgres(), store_folder, pricing=REPLICATE, auto_generate=auto
    ) as fixture:
        await fixture.apply_record("video.stitched", value, key=b"up")
        letters = await fixture.rows("SELECT topic, header_names, header_values FROM outbox")
        job_rows = await fixture.rows("SELECT job_id FROM jobs")
        requested = await fixture.post(job_id="up")

    if not auto:
        assert (letters, job_rows) == ([], [{"job_id": "up"}])
        assert requested.status_code == 422
        assert requested.json()["errors"][0]["field"] == "audio_params.max_cost"
        return
    (letter,) = letters
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))
    assert letter["topic"] == "video.stitched.dlq"
    assert "audio_params.max_cost" in headers["dlq-reason"].decode()
    assert job_rows == []
    assert requested.status_code == 404


@pytest.mark.parametrize("key", ["../x", "styles/nowhere", "a" * 201])
async def test_the_api_rejects_a_style_sample_that_does_not_exist(
    paid: ApiFixture, key: str
) -> None:
    """The error names the field; nothing is stored."""
    params = {"style_audio": {"object": key}}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=params)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("audio_params.style_audio")
    assert await nothing_stored(paid)


async def test_the_generator_gets_the_style_sample(paid: ApiFixture) -> None:
    """The api does not fetch a URL; the generator does."""
    params = {"style_audio": "https://x.example/a.mp3", "use_cache": False}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=params)
    (row, _) = await paid.rows("SELECT value FROM outbox ORDER BY id")

    assert answer.json()["estimate"]["music_s"] == 5 + 2 + 1 + 3
    assert b'"style_audio":{"url":"https://x.example/a.mp3","object":null}' in row["value"]
    assert b'"use_cache":false' in row["value"]


async def test_the_status_has_costs_and_savings(paid: ApiFixture) -> None:
    """Per scene and in total; a failed scene has a cost, too."""
    await paid.post(job_id="job-1", scenes=[*TWO_SCENES, {"duration_s": 2.5}])
    await paid.apply(
        a_segment(0, count=3, origin=Origin.CACHED, cost_usd=0.0, saved_usd=0.007),
        a_segment(1, count=3, cost_usd=0.011, generation_s=7.9),
        JobFailed(
            job_id="job-1",
            run=1,
            stage=Stage.GENERATION,
            code="c",
            message="m",
            scene_index=2,
            cost_usd=0.002,
        ),
    )
    status = await paid.status("job-1")

    costs = [(s["origin"], s["cost_usd"], s["saved_usd"]) for s in status["progress"]["scenes"]]
    assert costs == [("cached", 0.0, 0.007), ("fresh", 0.011, None), (None, 0.002, None)]
    assert status["cost_usd"] == 0.013
    assert status["saved_usd"] == 0.007
    assert [s["generation_s"] for s in status["progress"]["scenes"]] == [None, 7.9, None]
    assert status["generation_s"] == 7.9
    assert status["estimate"]["cost_usd"] > status["cost_usd"]


async def test_a_failure_without_a_cost_keeps_the_earlier_cost(paid: ApiFixture) -> None:
    """The first cost is kept until an event has another."""
    await paid.post(job_id="job-1", scenes=TWO_SCENES)
    costly = a_failure(stage=Stage.GENERATION, scene=0).model_copy(update={"cost_usd": 0.5})
    graver = a_failure(stage=Stage.GENERATION, scene=0).model_copy(update={"code": "d"})
    await paid.apply(costly, graver)

    assert (await paid.status("job-1"))["cost_usd"] == 0.5


async def test_a_job_started_by_upstream_has_no_estimate(paid: ApiFixture) -> None:
    """Its costs are counted nevertheless."""
    await paid.apply(a_scene(0, count=2), a_segment(0, count=2, cost_usd=0.01))
    status = await paid.status("job-1")

    assert status["estimate"] is None
    assert (status["cost_usd"], status["saved_usd"]) == (0.01, None)


async def test_the_api_keeps_working_while_a_newer_one_adds_columns(paid: ApiFixture) -> None:
    """Its prepared statements name their columns, so a new column changes no result."""

    async def post_and_read() -> None:
        answers = await asyncio.gather(
            *(paid.post(job_id=f"j-{n}", scenes=TWO_SCENES) for n in range(8))
        )
        assert {answer.status_code for answer in answers} == {202}
        await asyncio.gather(*(_load_rows(paid) for _ in range(8)))
        assert (await paid.status("j-0"))["state"] == "submitted"

    await post_and_read()
    for table in ("jobs", "runs", "scenes", "outbox", "idempotency_keys", "projection_offsets"):
        await paid.rows(f"ALTER TABLE {table} ADD COLUMN later text")
    await post_and_read()


async def _load_rows(fixture: ApiFixture) -> None:
    async with fixture.context.database.transaction() as connection:
        assert set(await runs.load(connection, [("j-0", 1)])) == {("j-0", 1)}
        assert set(await jobs.lock(connection, ["j-0"])) == {"j-0"}
        assert len(await outbox.oldest(connection, count=2)) == 2
