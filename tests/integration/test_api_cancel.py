"""Cancelling: a run stops, costs nothing more, and keeps what was generated."""

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
    """The api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def outbox(fixture: ApiFixture) -> list[dict[str, Any]]:
    """Return the cancellations in the outbox."""
    rows = await fixture.rows("SELECT value FROM outbox WHERE topic = 'job.cancelled' ORDER BY id")
    return [json.loads(row["value"]) for row in rows]


async def test_a_cancellation_is_published_after_the_requests_of_the_run(
    api: ApiFixture,
) -> None:
    """It is one record with the reason; the status follows once the api has read it."""
    await api.post(job_id="j", scenes=TWO_SCENES)

    answer = await api.client.post(CANCEL, params={"reason": "the film was cut again"})
    order = await api.rows("SELECT topic FROM outbox ORDER BY id")
    await api.apply(JobCancelled(job_id="j", run=1, reason="the film was cut again"))
    status = await api.status("j")

    assert answer.status_code == 202
    assert answer.json()["cancelling"] is True
    assert answer.json()["run"] == 1
    assert answer.json()["links"]["self"] == "/api/v3/audio/status/j"
    assert [row["topic"] for row in order] == ["scene.requested"] * 2 + ["job.cancelled"]
    [record] = await outbox(api)
    assert (record["run"], record["reason"]) == (1, "the film was cut again")
    assert status["audio_status"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "run 1 has ended (completed): there is nothing to cancel"),
        ({"run": 1}, "run 1 has ended (completed): there is nothing to cancel"),
        ({"run": 2}, "run 2 not found; the newest is 1: nothing was cancelled"),
    ],
    ids=["newest", "ended", "unknown"],
)
async def test_cancelling_an_ended_run_changes_nothing(
    api: ApiFixture, params: dict[str, int], message: str
) -> None:
    """The response is 200 with a message; nothing is published."""
    await api.apply(*a_complete_run())
    before = await api.rows("SELECT * FROM jobs")

    answer = await api.client.post("/api/v3/audio/job-1/cancel", params=params)

    assert answer.status_code == 200
    assert answer.json()["cancelling"] is False
    assert answer.json()["message"] == message
    assert await api.rows("SELECT * FROM jobs") == before
    assert await outbox(api) == []


async def test_an_older_run_is_not_cancelled_in_place_of_the_newer(api: ApiFixture) -> None:
    """A named run is the only one that may be cancelled."""
    await api.post(job_id="j", scenes=TWO_SCENES)
    await api.post(job_id="j", scenes=TWO_SCENES[:1])

    answer = await api.client.post(CANCEL, params={"run": 1})

    assert answer.status_code == 200
    assert "superseded by run 2" in answer.json()["message"]
    assert await outbox(api) == []


async def test_a_stitched_job_without_a_run_has_nothing_to_cancel(
    api: ApiFixture,
) -> None:
    """Its music was never requested."""
    await api.post(job_id="j", scenes=TWO_SCENES)
    await api.rows("DELETE FROM runs RETURNING 1")
    await api.rows("UPDATE jobs SET run = 0 RETURNING 1")

    answer = await api.client.post(CANCEL)

    assert (answer.status_code, answer.json()["run"]) == (200, 0)
    assert "the job has no run" in answer.json()["message"]


async def test_an_invalid_cancellation_is_rejected_by_field(api: ApiFixture) -> None:
    """An unknown job and invalid parameters."""
    unknown = await api.client.post(CANCEL)
    invalid = await api.client.post(CANCEL, params={"run": 0})
    long = await api.client.post(CANCEL, params={"reason": "x" * 501})

    assert unknown.status_code == 404
    assert invalid.status_code == long.status_code == 422
    assert invalid.json()["errors"][0]["field"] == "run"
    assert long.json()["errors"][0]["field"] == "reason"


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """An emulator whose predictions run until they are cancelled."""
    async with a_fake(60) as started:
        yield started


@pytest.fixture
async def pipeline(
    open_pipeline: OpenPipeline, replicate: ReplicateEmulator
) -> AsyncIterator[Pipeline]:
    """Four services; the generator uses the emulator."""
    async with open_pipeline(
        **account_of(replicate),
    ) as running:
        yield running


async def _at_work(replicate: ReplicateEmulator, count: int) -> None:
    async def are_processing() -> bool | None:
        working = [
            prediction
            for prediction in replicate.predictions
            if prediction["status"] == "processing"
        ]
        return len(working) == count or None

    await eventually(are_processing, within_s=60, what=f"{count} predictions at work")


async def _segue(pipeline: Pipeline, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command with the environment of the api."""
    environment = {**os.environ, **pipeline.services["api"].environment}  # noqa: TID251 - the child's
    process = await start_forked("ops", *arguments, "--json", environment=environment)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output)


async def test_a_cancelled_run_costs_nothing_more_and_can_be_requested_again(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """The running prediction is cancelled at the provider; the next is never requested."""
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    await _at_work(replicate, 1)

    answer = await pipeline.client.post(f"{BASE}/j/cancel", params={"reason": "enough"})
    status = await pipeline.ended("j")
    await _at_work(replicate, 0)
    again = await pipeline.client.post(f"{BASE}/j/cancel")
    calls = [prediction["status"] for prediction in replicate.predictions]
    replicate.tune(work_s=0.1)
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    second = await pipeline.ended("j", run=2)

    assert answer.status_code == 202
    assert status["audio_status"]["status"] == "cancelled"
    assert calls == ["canceled"]
    assert (again.status_code, again.json()["cancelling"]) == (200, False)
    assert second["audio_status"]["status"] == "completed"


async def test_the_command_cancels_without_an_api(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """The command publishes the event itself; the api reads it once it is back."""
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    await _at_work(replicate, 1)
    await pipeline.services["api"].kill()

    dry = await _segue(pipeline, "cancel", "j")
    silent = await records_of(pipeline.kafka.bootstrap, "job.cancelled", prefix=pipeline.prefix)
    unreasoned = await _segue(pipeline, "cancel", "j", "--apply")
    done = await _segue(pipeline, "cancel", "j", "--apply", "--reason", "by hand")
    await _at_work(replicate, 0)
    records = await records_of(pipeline.kafka.bootstrap, "job.cancelled", prefix=pipeline.prefix)
    await pipeline.services["api"].start()

    async def cancelled() -> bool | None:
        try:
            status = await pipeline.status("j")
        except httpx.TransportError:
            return None
        return (status is not None and status["audio_status"]["status"] == "cancelled") or None

    await eventually(cancelled, within_s=60, what="the api has read the cancellation")
    late = await _segue(pipeline, "cancel", "j", "--apply", "--reason", "once more")
    unknown = await _segue(pipeline, "cancel", "unknown", "--apply", "--reason", "to see")

    assert (dry[0], dry[1]["applied"], silent) == (0, False, [])
    assert unreasoned[0] == 2
    assert (done[0], done[1]["applied"]) == (0, True)
    assert [(value_of(record)["run"], value_of(record)["reason"]) for record in records] == [
        (1, "by hand")
    ]
    assert late[0] == unknown[0] == 4
    assert "has ended" in late[1]["error"]
    assert "not found" in unknown[1]["error"]
