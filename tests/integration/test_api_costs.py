"""What a run will cost, may cost and did cost, on a real database."""

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


async def nothing_kept(fixture: ApiFixture) -> bool:
    """Whether no job, run or record is there."""
    counts = await fixture.rows(
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM runs) + "
        "(SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency_keys) AS n"
    )
    return counts == [{"n": 0}]


async def test_music_made_here_is_estimated_at_nothing(
    postgres: Database, store_folder: Path
) -> None:
    """Made by synth."""
    pricing = PricingSettings(wanted="synth")
    async with api_fixture(await postgres(), store_folder, pricing=pricing) as fixture:
        told = (await fixture.post(job_id="j", scenes=TWO_SCENES)).json()

    assert told["estimate"] == {"cost_usd": 0.0, "music_s": 6, "seconds": 1.2, "provider": "synth"}
    assert told["audio_status"]["estimated_duration"] == "2s"


async def test_music_that_is_paid_for_is_estimated_before_it_is_made(paid: ApiFixture) -> None:
    """In the first answer, in that to the same request, and in the status."""
    first = await paid.post(job_id="j", scenes=TWO_SCENES)
    again = await paid.post(job_id="j", scenes=TWO_SCENES)
    estimate = first.json()["estimate"]

    assert estimate == {
        "cost_usd": COST_USD,
        "music_s": 6,
        "seconds": 18.0,
        "provider": "replicate",
    }
    assert first.json()["audio_status"]["estimated_duration"] == "18s"
    assert again.json() == first.json()
    assert (await paid.status("j"))["estimate"] == estimate


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k-1"}])
async def test_a_run_over_its_cap_is_refused_and_nothing_is_kept(
    paid: ApiFixture, headers: dict[str, str]
) -> None:
    """A problem that names field, estimate, cap and ways out; the key is free again."""
    body: dict[str, Any] = {"job_id": "j", "scenes": TWO_SCENES}

    async def ask(max_cost: float) -> Any:
        return await paid.client.post(
            "/api/v3/audio/generate-scenes",
            json={**body, "audio_params": {"max_cost": max_cost}},
            headers=headers,
        )

    refused = await ask(0.01)
    problem = refused.json()

    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in problem["errors"]] == ["audio_params.max_cost"]
    for told in ("$0.0168", "$0.01 ", "raise max_cost", "shorter scenes", "error_strategy"):
        assert told in problem["detail"]
    assert await nothing_kept(paid)
    assert (await ask(COST_USD)).status_code == 202


async def test_a_refused_run_leaves_the_one_that_runs_alone(paid: ApiFixture) -> None:
    """It supersedes nothing."""
    await paid.post(job_id="j", scenes=TWO_SCENES)
    refused = await paid.post(
        job_id="j", scenes=[{"duration_s": 30}] * 9, audio_params={"max_cost": 0.05}
    )
    told = await paid.status("j")

    assert refused.status_code == 422
    assert (told["run"], told["state"], len(told["progress"]["scenes"])) == (1, "submitted", 2)


async def test_a_run_under_way_keeps_the_price_that_was_said(
    postgres: Database, store_folder: Path
) -> None:
    """The api comes back with a dearer one: the same request is answered as before."""
    url, wishes = await postgres(), {"max_cost": COST_USD}
    dear = PricingSettings(wanted="replicate", replicate=ReplicateAccount(usd_per_s=1))
    async with api_fixture(url, store_folder, pricing=REPLICATE) as fixture:
        first = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)
    async with api_fixture(url, store_folder, pricing=dear) as fixture:
        again = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)
        await fixture.apply(a_failure().model_copy(update={"job_id": "j"}))
        anew = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert anew.status_code == 422


async def test_a_run_that_ends_with_the_error_strategy_begins_over_its_cap(
    paid: ApiFixture,
) -> None:
    """The generator is told both."""
    wishes = {"max_cost": 0.01, "on_max_cost": "error_strategy"}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)
    (params,) = await paid.rows("SELECT params FROM runs")

    assert answer.status_code == 202
    assert answer.json()["estimate"]["cost_usd"] > 0.01
    assert '"max_cost": 0.01' in params["params"]
    assert '"on_max_cost": "error_strategy"' in params["params"]


async def test_a_cap_in_the_settings_is_every_requests(
    postgres: Database, store_folder: Path
) -> None:
    """AUDIO_MAX_COST; a request may name its own."""
    defaults = DefaultSettings(max_cost=0.01)
    url = await postgres()
    async with api_fixture(url, store_folder, pricing=REPLICATE, defaults=defaults) as fixture:
        refused = await fixture.post(job_id="j", scenes=TWO_SCENES)
        own = await fixture.post(job_id="j", scenes=TWO_SCENES, audio_params={"max_cost": 1})

    assert refused.status_code == 422
    assert "AUDIO_MAX_COST" in refused.json()["detail"]
    assert own.status_code == 202


@pytest.mark.parametrize("auto", [True, False])
async def test_a_stitched_video_over_its_cap_is_a_dead_letter_if_it_would_begin(
    postgres: Database, store_folder: Path, *, auto: bool
) -> None:
    """With AUTO_GENERATE_AUDIO; else it waits, and whoever asks is refused."""
    value = b'{"job_id": "up", "scenes": [{"duration_s": 9}], "audio_params": {"max_cost": 0.001}}'
    async with api_fixture(
        await postgres(), store_folder, pricing=REPLICATE, auto_generate=auto
    ) as fixture:
        await fixture.apply_record("video.stitched", value, key=b"up")
        letters = await fixture.rows("SELECT topic, header_names, header_values FROM outbox")
        found = await fixture.rows("SELECT job_id FROM jobs")
        asked = await fixture.post(job_id="up")

    if not auto:
        assert (letters, found) == ([], [{"job_id": "up"}])
        assert asked.status_code == 422
        assert asked.json()["errors"][0]["field"] == "audio_params.max_cost"
        return
    (letter,) = letters
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))
    assert letter["topic"] == "video.stitched.dlq"
    assert "audio_params.max_cost" in headers["dlq-reason"].decode()
    assert found == []
    assert asked.status_code == 404


@pytest.mark.parametrize("key", ["../x", "styles/nowhere", "a" * 201])
async def test_a_style_sample_that_is_not_there_is_told_before_anything_begins(
    paid: ApiFixture, key: str
) -> None:
    """With the route that takes one in."""
    wishes = {"style_audio": {"object": key}}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("audio_params.style_audio")
    assert await nothing_kept(paid)


async def test_a_style_sample_travels_to_the_generator(paid: ApiFixture) -> None:
    """As a URL it is looked at there."""
    wishes = {"style_audio": "https://x.example/a.mp3", "use_cache": False}
    answer = await paid.post(job_id="j", scenes=TWO_SCENES, audio_params=wishes)
    (row, _) = await paid.rows("SELECT value FROM outbox ORDER BY id")

    assert answer.json()["estimate"]["music_s"] == 5 + 2 + 1 + 3
    assert b'"style_audio":{"url":"https://x.example/a.mp3","object":null}' in row["value"]
    assert b'"use_cache":false' in row["value"]


async def test_the_status_tells_what_was_spent_and_what_was_saved(paid: ApiFixture) -> None:
    """Per scene and in all; a scene that failed was not free."""
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
    told = await paid.status("job-1")

    costs = [(s["origin"], s["cost_usd"], s["saved_usd"]) for s in told["progress"]["scenes"]]
    assert costs == [("cached", 0.0, 0.007), ("fresh", 0.011, None), (None, 0.002, None)]
    assert told["cost_usd"] == 0.013
    assert told["saved_usd"] == 0.007
    assert [s["generation_s"] for s in told["progress"]["scenes"]] == [None, 7.9, None]
    assert told["generation_s"] == 7.9
    assert told["estimate"]["cost_usd"] > told["cost_usd"]


async def test_a_failure_that_knows_no_cost_does_not_forget_one(paid: ApiFixture) -> None:
    """The first word about money stays until there is a better one."""
    await paid.post(job_id="job-1", scenes=TWO_SCENES)
    costly = a_failure(stage=Stage.GENERATION, scene=0).model_copy(update={"cost_usd": 0.5})
    graver = a_failure(stage=Stage.GENERATION, scene=0).model_copy(update={"code": "d"})
    await paid.apply(costly, graver)

    assert (await paid.status("job-1"))["cost_usd"] == 0.5


async def test_a_job_that_upstream_began_has_no_estimate(paid: ApiFixture) -> None:
    """Nobody was asked; what it costs is counted all the same."""
    await paid.apply(a_scene(0, count=2), a_segment(0, count=2, cost_usd=0.01))
    told = await paid.status("job-1")

    assert told["estimate"] is None
    assert (told["cost_usd"], told["saved_usd"]) == (0.01, None)


async def test_an_api_works_on_while_a_newer_one_adds_columns(paid: ApiFixture) -> None:
    """Its statements were prepared on the tables of before, and none asks for every column."""

    async def work() -> None:
        answers = await asyncio.gather(
            *(paid.post(job_id=f"j-{n}", scenes=TWO_SCENES) for n in range(8))
        )
        assert {answer.status_code for answer in answers} == {202}
        await asyncio.gather(*(_loaded(paid) for _ in range(8)))
        assert (await paid.status("j-0"))["state"] == "submitted"

    await work()
    for table in ("jobs", "runs", "scenes", "outbox", "idempotency_keys", "projection_offsets"):
        await paid.rows(f"ALTER TABLE {table} ADD COLUMN later text")
    await work()


async def _loaded(fixture: ApiFixture) -> None:
    async with fixture.context.database.transaction() as connection:
        assert set(await runs.load(connection, [("j-0", 1)])) == {("j-0", 1)}
        assert set(await jobs.lock(connection, ["j-0"])) == {"j-0"}
        assert len(await outbox.oldest(connection, count=2)) == 2
