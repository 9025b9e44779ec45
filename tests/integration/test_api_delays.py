"""What a scene waits for, on a real database: shown while it does, and never longer."""

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
ASKED = tuple(a_scene(index, count=2) for index in range(2))


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def _shown(fixture: ApiFixture, *events: Event) -> dict[str, Any]:
    await fixture.apply(*events)
    return await fixture.status("job-1")


async def _pause(fixture: ApiFixture) -> scene_delays.ProviderPause | None:
    async with fixture.context.database.connection() as connection:
        return await scene_delays.pause(connection)


async def test_a_wait_is_shown_with_its_reason_and_goes_when_it_is_over(
    fixture: ApiFixture,
) -> None:
    """The scene stays the one that is being made; each change has a version of its own."""
    before = await _shown(fixture, *ASKED)
    told = await _shown(fixture, a_delay())
    again = await _shown(fixture, a_delay())
    versions = await fixture.rows("SELECT version FROM jobs")
    over = await _shown(fixture, a_delay(over=True))

    assert before["waiting"] is None
    assert told["waiting"]["code"] == "provider_paused"
    assert told["waiting"]["reason"] == "Replicate wants credit"
    assert told["waiting"]["since"].endswith("Z")
    assert told["progress"]["scenes"][0]["state"] == "generating"
    assert told["progress"]["scenes"][0]["waiting"] == told["waiting"]
    assert told["progress"]["scenes"][1]["waiting"] is None
    assert told["audio_status"]["status"] == "processing"
    assert again == told
    assert over == before
    assert await fixture.rows("SELECT version FROM jobs") == [
        {"version": versions[0]["version"] + 1}
    ]


async def test_news_of_a_prediction_changes_nothing_and_alarms_nobody(fixture: ApiFixture) -> None:
    """The generator looks; the api has said it, and reads it again among its topics."""
    before = await _shown(fixture, *ASKED)
    with structlog.testing.capture_logs() as lines:
        after = await _shown(fixture, PredictionEnded(job_id="job-1", prediction_id="p1"))

    assert after == before
    assert [one for one in lines if one["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    "end",
    [a_segment(0, count=2), a_cancel(), a_failure(stage=Stage.GENERATION, scene=0)],
    ids=lambda event: event.kind,
)
async def test_whatever_ends_the_scene_ends_the_wait_whichever_is_read_first(
    fixture: ApiFixture, end: Event
) -> None:
    """The delay may be read after the end, and is nobody's pause then."""
    first = await _shown(fixture, *ASKED, a_delay(), end)
    late = await _shown(fixture, a_delay())

    for told in (first, late):
        assert told["waiting"] is None
        assert [scene["waiting"] for scene in told["progress"]["scenes"]] == [None, None]
    assert await _pause(fixture) is None


async def test_a_newer_run_does_not_wait_for_what_the_older_one_did(fixture: ApiFixture) -> None:
    """Nor does its late word reach it."""
    await fixture.apply(*ASKED, a_delay(), *(a_scene(i, count=2, run=2) for i in range(2)))
    told = await _shown(fixture, a_delay())

    assert (told["run"], told["waiting"]) == (2, None)
    assert await _pause(fixture) is None


async def test_every_order_of_the_topics_leaves_the_same_rows(
    postgres: Database, tmp_path: Path
) -> None:
    """A rebuild reads them in another order than life did."""
    said = (*ASKED, a_delay(0), a_segment(0, count=2), a_delay(1))
    found = []
    for number, order in enumerate(itertools.permutations(said)):
        if number % 12:  # ten of them
            continue
        async with api_fixture(await postgres(), tmp_path / str(number)) as fixture:
            await fixture.apply(*order)
            found.append(
                await fixture.rows(
                    "SELECT scene_index, state, spec IS NOT NULL AS asked,"
                    " delay - 'since' AS delay FROM scenes ORDER BY scene_index"
                )
            )

    assert len(found) == 10
    assert all(rows == found[0] for rows in found)
    assert found[0][0]["delay"] is None
    assert found[0][1]["delay"] is not None


async def test_the_pause_counts_who_waits_for_a_person_and_nobody_else(fixture: ApiFixture) -> None:
    """A busy provider is not a paused one."""
    await fixture.apply(*ASKED, a_delay(code=WaitCode.PROVIDER_BUSY, reason="503"))
    busy = await _pause(fixture)
    await fixture.apply(a_delay())
    paused = await _pause(fixture)
    await fixture.apply(a_segment(0, count=2))

    assert busy is None
    assert paused == scene_delays.ProviderPause(reason="Replicate wants credit", scenes=1)
    assert await _pause(fixture) is None


async def test_a_restart_of_the_projection_knows_since_when_it_waits(fixture: ApiFixture) -> None:
    """The view is loaded from the rows for every batch."""
    first = await _shown(fixture, *ASKED, a_delay(code=WaitCode.PROVIDER_BUSY, reason="503"))
    then = await _shown(fixture, a_delay())

    assert then["waiting"]["code"] == "provider_paused"
    assert then["waiting"]["since"] == first["waiting"]["since"]
