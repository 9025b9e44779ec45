"""The api binds a run to its provider; rows, events, resume and redrive keep it."""

from pathlib import Path
from typing import Any

import pytest

from services.api.database.operators import redrive
from services.api.settings import DefaultSettings
from shared.contract.params import PromptStyle
from shared.pricing import PricingSettings
from tests.integration.test_scene_field import published, resumed
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.servers import Database

pytestmark = pytest.mark.integration
REPLICATE, SYNTH = PricingSettings(wanted="replicate"), PricingSettings(wanted="synth")


async def providers_of(fixture: ApiFixture, job_id: str) -> dict[str, Any]:
    """Return the provider of a run wherever it is kept."""
    [row] = await fixture.rows("SELECT provider FROM runs WHERE job_id = $1", job_id)
    async with fixture.context.database.connection() as connection:
        previous = await redrive.previous_run(connection, job_id)
    assert previous is not None
    return {
        "row": row["provider"],
        "status": (await fixture.status(job_id))["provider"],
        "resume": {request.provider for request in await resumed(fixture)},
        "redrive": previous.provider,
    }


@pytest.mark.parametrize(("first", "later"), [(SYNTH, REPLICATE), (REPLICATE, SYNTH)])
async def test_a_run_keeps_its_provider_after_a_restart_with_another(
    postgres: Database, store_folder: Path, first: PricingSettings, later: PricingSettings
) -> None:
    """Requests, row, status, resume and redrive; also after a rebuild from the events."""
    url, name = await postgres(), first.provider
    kept = {"row": name, "status": name, "resume": {name}, "redrive": name}
    async with api_fixture(url, store_folder, pricing=first) as fixture:
        started = await fixture.post(job_id="j", scenes=TWO_SCENES)
        requests = await published(fixture)
    async with api_fixture(url, store_folder, pricing=later) as fixture:
        repeated = await fixture.post(job_id="j", scenes=TWO_SCENES)
        after_restart = await providers_of(fixture, "j")
        await fixture.rows("TRUNCATE jobs, runs, scenes")
        await fixture.apply(*requests)
        after_rebuild = await providers_of(fixture, "j")

    assert [request.provider for request in requests] == [name, name]
    [warning] = repeated.json()["warnings"]
    assert f"run 1 continues with {name}, the provider that it started with" in warning
    assert {**repeated.json(), "warnings": []} == {**started.json(), "warnings": []}
    assert (started.json()["warnings"], repeated.status_code) == ([], 202)
    assert after_restart == after_rebuild == kept


async def test_a_run_of_upstream_is_redriven_with_the_provider_that_made_it(
    postgres: Database, store_folder: Path
) -> None:
    """Its requests name none; its segments do."""
    async with api_fixture(await postgres(), store_folder, pricing=REPLICATE) as fixture:
        await fixture.apply(a_scene(0, count=2), a_scene(1, count=2))
        unmade = await providers_of(fixture, "job-1")
        await fixture.apply(a_segment(0, count=2, provider="synth"))
        made = await providers_of(fixture, "job-1")

    assert unmade == {"row": None, "status": None, "resume": {None}, "redrive": None}
    assert made == {**unmade, "redrive": "synth"}


async def test_the_202_shows_the_cost_limit_and_the_prompts(
    postgres: Database, store_folder: Path
) -> None:
    """AUDIO_MAX_COST is 10 dollars by default; AUDIO_PROMPT_STYLE travels in the events."""
    scenes = [{"description": text, "duration_s": 2} for text in ("a calm lake", "a quiet lake")]
    defaults = DefaultSettings(prompt_style=PromptStyle.SCENE)
    url = await postgres()
    async with api_fixture(url, store_folder, pricing=REPLICATE, defaults=defaults) as fixture:
        own = await fixture.post(job_id="own", scenes=scenes)
        params = {"prompt_style": "contract", "max_cost": 0.5}
        asked = await fixture.post(job_id="asked", scenes=scenes, audio_params=params)
        too_much = await fixture.post(job_id="long", scenes=[{"duration_s": 300}] * 13)
        requests = await published(fixture)

    template = "Cinematic background music, calm and peaceful, instrumental, seamless loop"
    assert (own.json()["max_cost"], asked.json()["max_cost"]) == (10.0, 0.5)
    assert own.json()["prompts"] == [
        f"{template}; for a scene that shows: {text}" for text in ("a calm lake", "a quiet lake")
    ]
    assert asked.json()["prompts"] == [template, template]
    assert [request.params.prompt_style for request in requests] == ["scene"] * 2 + ["contract"] * 2
    assert too_much.status_code == 422
    assert "the limit is $10.00 (AUDIO_MAX_COST" in too_much.json()["detail"]
