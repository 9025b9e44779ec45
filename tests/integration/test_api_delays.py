"""Delays of scenes on a real database: shown while they last, and no longer."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.api.database import scene_delays
from shared.contract.events import Event, PredictionEnded, Stage, WaitCode
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.run_builders import a_cancel, a_delay, a_failure
from tests.support.servers import Database

pytestmark = pytest.mark.integration
REQUESTED = tuple(a_scene(index, count=2) for index in range(2))


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def _status_after(fixture: ApiFixture, *events: Event) -> dict[str, Any]:
    await fixture.apply(*events)
    return await fixture.status("job-1")


async def _pause(fixture: ApiFixture) -> scene_delays.ProviderPause | None:
    async with fixture.context.database.connection() as connection:
        return await scene_delays.pause(connection)


async def test_the_status_shows_a_delay_with_its_reason_until_it_is_over(
    fixture: ApiFixture,
) -> None:
    """The scene's state stays generating; each change increments the version."""
    before = await _status_after(fixture, *REQUESTED)
    delayed = await _status_after(fixture, a_delay())
    again = await _status_after(fixture, a_delay())
    versions = await fixture.rows("SELECT version FROM jobs")
    over = await _status_after(fixture, a_delay(over=True))

    assert before["waiting"] is None
    assert delayed["waiting"]["code"] == "provider_paused"
    assert delayed["waiting"]["reason"] == "Replicate wants credit"
    assert delayed["waiting"]["since"].endswith("Z")
    assert delayed["progress"]["scenes"][0]["state"] == "generating"
    assert delayed["progress"]["scenes"][0]["waiting"] == delayed["waiting"]
    assert delayed["progress"]["scenes"][1]["waiting"] is None
    assert delayed["audio_status"]["status"] == "processing"
    assert again == delayed
    assert over == before
    assert await fixture.rows("SELECT version FROM jobs") == [
        {"version": versions[0]["version"] + 1}
    ]


async def test_the_api_ignores_an_ended_prediction(fixture: ApiFixture) -> None:
    """The api reads its own event again among its topics; nothing is logged above debug."""
    before = await _status_after(fixture, *REQUESTED)
    with structlog.testing.capture_logs() as entries:
        after = await _status_after(fixture, PredictionEnded(job_id="job-1", prediction_id="p1"))

    assert after == before
    assert [entry for entry in entries if entry["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    "end",
    [a_segment(0, count=2), a_cancel(), a_failure(stage=Stage.GENERATION, scene=0)],
    ids=lambda event: event.kind,
)
async def test_the_end_of_a_scene_ends_its_delay_in_any_order(
    fixture: ApiFixture, end: Event
) -> None:
    """A delay that is read after the end is neither shown nor counted as a pause."""
    first = await _status_after(fixture, *REQUESTED, a_delay(), end)
    late = await _status_after(fixture, a_delay())

    for status in (first, late):
        assert status["waiting"] is None
        assert [scene["waiting"] for scene in status["progress"]["scenes"]] == [None, None]
    assert await _pause(fixture) is None


async def test_a_newer_run_has_no_delay_of_an_older_one(fixture: ApiFixture) -> None:
    """A late delay of the older run is ignored as well."""
    await fixture.apply(*REQUESTED, a_delay(), *(a_scene(i, count=2, run=2) for i in range(2)))
    status = await _status_after(fixture, a_delay())

    assert (status["run"], status["waiting"]) == (2, None)
    assert await _pause(fixture) is None


async def test_every_order_of_the_topics_leaves_the_same_rows(
    postgres: Database, tmp_path: Path
) -> None:
    """A rebuild reads the topics in another order."""
    events = (*REQUESTED, a_delay(0), a_segment(0, count=2), a_delay(1))
    results = []
    for number, order in enumerate(itertools.permutations(events)):
        if number % 12:  # ten of them
            continue
        async with api_fixture(await postgres(), tmp_path / str(number)) as fixture:
            await fixture.apply(*order)
            results.append(
                await fixture.rows(
                    "SELECT scene_index, state, spec IS NOT NULL AS requested,"
                    " delay - 'since' AS delay FROM scenes ORDER BY scene_index"
                )
            )

    assert len(results) == 10
    assert all(result == results[0] for result in results)
    assert results[0][0]["delay"] is None
    assert results[0][1]["delay"] is not None


async def test_the_pause_counts_scenes_of_a_paused_provider_only(fixture: ApiFixture) -> None:
    """A busy provider is not a paused one."""
    await fixture.apply(*REQUESTED, a_delay(code=WaitCode.PROVIDER_BUSY, reason="503"))
    busy = await _pause(fixture)
    await fixture.apply(a_delay())
    paused = await _pause(fixture)
    await fixture.apply(a_segment(0, count=2))

    assert busy is None
    assert paused == scene_delays.ProviderPause(reason="Replicate wants credit", scenes=1)
    assert await _pause(fixture) is None


async def test_a_restarted_projection_knows_the_start_of_a_delay(fixture: ApiFixture) -> None:
    """The view is loaded from the rows for every batch."""
    first = await _status_after(
        fixture, *REQUESTED, a_delay(code=WaitCode.PROVIDER_BUSY, reason="503")
    )
    then = await _status_after(fixture, a_delay())

    assert then["waiting"]["code"] == "provider_paused"
    assert then["waiting"]["since"] == first["waiting"]["since"]
