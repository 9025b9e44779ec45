"""Cancelling: a run stops when it is asked to, spends nothing more, and keeps what it made."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicate_server import ReplicateEmulator
from shared.contract.events import JobCancelled
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.fork_server import start_forked
from tests.support.pipeline_fixture import BASE, OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.replicate_provider import a_fake, account_of
from tests.support.run_builders import a_complete_run
from tests.support.servers import Database

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CANCEL = "/api/v3/audio/j/cancel"


@pytest.fixture
async def api(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The edge on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def outbox(fixture: ApiFixture) -> list[dict[str, Any]]:
    """The cancellations that wait for Kafka."""
    rows = await fixture.rows("SELECT value FROM outbox WHERE topic = 'job.cancelled' ORDER BY id")
    return [json.loads(row["value"]) for row in rows]


async def test_a_run_under_way_is_told_to_stop_behind_all_that_was_said_of_it(
    api: ApiFixture,
) -> None:
    """One record, with the reason; the status says so when the api has read it."""
    await api.post(job_id="j", scenes=TWO_SCENES)

    answer = await api.client.post(CANCEL, params={"reason": "the film was cut anew"})
    order = await api.rows("SELECT topic FROM outbox ORDER BY id")
    await api.apply(JobCancelled(job_id="j", run=1, reason="the film was cut anew"))
    told = await api.status("j")

    assert answer.status_code == 202
    assert answer.json()["cancelling"] is True
    assert answer.json()["run"] == 1
    assert answer.json()["links"]["self"] == "/api/v3/audio/status/j"
    assert [row["topic"] for row in order] == ["scene.requested"] * 2 + ["job.cancelled"]
    [record] = await outbox(api)
    assert (record["run"], record["reason"]) == (1, "the film was cut anew")
    assert told["audio_status"]["status"] == "cancelled"


@pytest.mark.parametrize("params", [{}, {"run": 1}, {"run": 2}])
async def test_of_a_run_that_has_ended_there_is_nothing_to_cancel(
    api: ApiFixture, params: dict[str, int]
) -> None:
    """200 and a word, nothing is said, and the row stays as it was."""
    await api.apply(*a_complete_run())
    before = await api.rows("SELECT * FROM jobs")

    answer = await api.client.post("/api/v3/audio/job-1/cancel", params=params)

    assert answer.status_code == 200
    assert answer.json()["cancelling"] is False
    assert "there is n" in answer.json()["message"]
    assert await api.rows("SELECT * FROM jobs") == before
    assert await outbox(api) == []


async def test_an_older_run_is_not_cancelled_in_place_of_the_newer(api: ApiFixture) -> None:
    """Whoever names a run means that one."""
    await api.post(job_id="j", scenes=TWO_SCENES)
    await api.post(job_id="j", scenes=TWO_SCENES[:1])

    answer = await api.client.post(CANCEL, params={"run": 1})

    assert answer.status_code == 200
    assert "superseded by run 2" in answer.json()["message"]
    assert await outbox(api) == []


async def test_a_job_that_was_stitched_and_never_asked_for_has_nothing_to_cancel(
    api: ApiFixture,
) -> None:
    """It waits to be asked."""
    await api.post(job_id="j", scenes=TWO_SCENES)
    await api.rows("DELETE FROM runs RETURNING 1")
    await api.rows("UPDATE jobs SET run = 0 RETURNING 1")

    answer = await api.client.post(CANCEL)

    assert (answer.status_code, answer.json()["run"]) == (200, 0)
    assert "the job has no run" in answer.json()["message"]


async def test_what_cannot_be_cancelled_is_refused_naming_it(api: ApiFixture) -> None:
    """An unknown job, and parameters that are none."""
    unknown = await api.client.post(CANCEL)
    wrong = await api.client.post(CANCEL, params={"run": 0})
    long = await api.client.post(CANCEL, params={"reason": "x" * 501})

    assert unknown.status_code == 404
    assert wrong.status_code == long.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "run"
    assert long.json()["errors"][0]["field"] == "reason"


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """A fake that works for so long that it is always cancelled."""
    async with a_fake(60) as started:
        yield started


@pytest.fixture
async def pipeline(
    open_pipeline: OpenPipeline, replicate: ReplicateEmulator
) -> AsyncIterator[Pipeline]:
    """Four services, the generator with the account of the fake."""
    async with open_pipeline(
        **account_of(replicate),
    ) as running:
        yield running


async def _at_work(replicate: ReplicateEmulator, count: int) -> None:
    async def look() -> bool | None:
        working = [one for one in replicate.predictions if one["status"] == "processing"]
        return len(working) == count or None

    await eventually(look, within_s=60, what=f"{count} predictions at work")


async def _segue(pipeline: Pipeline, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the command with the settings of the api."""
    environment = {**os.environ, **pipeline.services["api"].environment}  # noqa: TID251 - the child's
    process = await start_forked("ops", *words, "--json", environment=environment)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(said)


async def test_a_cancelled_run_spends_nothing_more_and_can_be_asked_for_again(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """The prediction under way is cancelled at the provider, the next is never asked for."""
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    await _at_work(replicate, 1)

    answer = await pipeline.client.post(f"{BASE}/j/cancel", params={"reason": "enough"})
    told = await pipeline.ended("j")
    await _at_work(replicate, 0)
    again = await pipeline.client.post(f"{BASE}/j/cancel")
    calls = [one["status"] for one in replicate.predictions]
    replicate.tune(work_s=0.1)
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    anew = await pipeline.ended("j", run=2)

    assert answer.status_code == 202
    assert told["audio_status"]["status"] == "cancelled"
    assert calls == ["canceled"]
    assert (again.status_code, again.json()["cancelling"]) == (200, False)
    assert anew["audio_status"]["status"] == "completed"


async def test_the_command_cancels_without_an_api(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """Dry first; then it is published by itself, and the api hears of it when it is back."""
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    await _at_work(replicate, 1)
    await pipeline.services["api"].kill()

    dry = await _segue(pipeline, "cancel", "j")
    silent = await records_of(pipeline.kafka.bootstrap, "job.cancelled", prefix=pipeline.prefix)
    unsaid = await _segue(pipeline, "cancel", "j", "--apply")
    done = await _segue(pipeline, "cancel", "j", "--apply", "--reason", "by hand")
    await _at_work(replicate, 0)
    said = await records_of(pipeline.kafka.bootstrap, "job.cancelled", prefix=pipeline.prefix)
    await pipeline.services["api"].start()

    async def cancelled() -> bool | None:
        try:
            told = await pipeline.status("j")
        except httpx.TransportError:
            return None
        return (told is not None and told["audio_status"]["status"] == "cancelled") or None

    await eventually(cancelled, within_s=60, what="the api has heard of it")
    late = await _segue(pipeline, "cancel", "j", "--apply", "--reason", "once more")
    nobody = await _segue(pipeline, "cancel", "somebody else", "--apply", "--reason", "to see")

    assert (dry[0], dry[1]["applied"], silent) == (0, False, [])
    assert unsaid[0] == 2
    assert (done[0], done[1]["applied"]) == (0, True)
    assert [(value_of(one)["run"], value_of(one)["reason"]) for one in said] == [(1, "by hand")]
    assert late[0] == nobody[0] == 4
    assert "has ended" in late[1]["error"]
    assert "not found" in nobody[1]["error"]
