"""The projection on a real database: events update jobs exactly once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api.database import offsets
from services.api.projection.apply_batch import Batch
from services.api.runs.resume import resume_in_new_epoch
from shared.contract.events import Origin, SceneRequested, Seam
from shared.contract.params import AudioParams
from shared.kafka.codec import Record
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.event_builders import a_scene, a_segment
from tests.support.run_builders import (
    WITH_VIDEO,
    a_cancel,
    a_complete_run,
    a_failure,
    a_track,
    a_video,
)
from tests.support.servers import Database

pytestmark = pytest.mark.integration


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_the_status_shows_every_stage_of_a_run(fixture: ApiFixture) -> None:
    """It has the contract's fields, the results, and links to what exists."""
    await fixture.post(
        job_id="job-1",
        scenes=TWO_SCENES,
        video="https://x.example/v.mp4",
        audio_params={"merge_with_video": True},
    )
    requested, *segments = a_complete_run()[1:4]
    await fixture.apply(requested, segments[0])
    halfway = await fixture.status("job-1")
    silent = a_segment(1, count=2, params=WITH_VIDEO, origin=Origin.SILENCE, reason="busy")
    seam = Seam(scene_index=1, at_samples=120_000, kind="fade")
    track = a_track().model_copy(update={"seams": (seam,), "warnings": ("quiet",)})
    await fixture.apply(silent, track, a_video())
    status = await fixture.status("job-1")

    assert halfway["audio_status"] == {
        "status": "processing",
        "generated_at": None,
        "size": None,
        "merged_with_video": False,
        "error": None,
    }
    assert halfway["progress"]["stage"] == "audio_generation"
    assert halfway["progress"]["percentage"] == 45
    assert [scene["state"] for scene in halfway["progress"]["scenes"]] == ["done", "generating"]
    assert status["audio_status"]["status"] == "completed"
    assert status["audio_status"]["generated_at"].endswith("Z")
    assert status["audio_status"]["size"] == 1000
    assert status["audio_status"]["merged_with_video"] is True
    assert status["progress"]["stage"] == "audio_completed"
    assert status["progress"]["percentage"] == 100
    assert status["track"]["loudness_lufs"] == -14.0
    assert status["track"]["seams"][0]["at_samples"] == 120_000
    assert status["silent_scenes"] == [1]
    assert status["progress"]["scenes"][1]["reason"] == "busy"
    assert status["warnings"] == ["quiet"]
    assert status["links"]["download"] == "/api/v3/audio/job-1/download"
    assert status["links"]["video"] == "/api/v3/audio/job-1/video"


async def test_the_row_of_a_job_has_the_contracts_progress(fixture: ApiFixture) -> None:
    """audio_status, audio_generated_at, audio_size, video_with_audio."""
    await fixture.apply(*a_complete_run())
    [row] = await fixture.rows("SELECT progress FROM jobs")
    progress = json.loads(row["progress"])

    assert progress["audio_status"] == "completed"
    assert progress["audio_generated_at"].endswith("Z")
    assert progress["audio_size"] == 1000
    assert progress["video_with_audio"] is True


async def test_the_events_of_an_upstream_create_a_job_with_a_status(fixture: ApiFixture) -> None:
    """The upstream never calls the api; nothing is added to the outbox."""
    await fixture.apply(a_scene(0, count=2), a_scene(1, count=2), a_segment(0, count=2))
    status = await fixture.status("job-1")

    assert status["run"] == 1
    assert status["state"] == "generating"
    assert [scene["duration_s"] for scene in status["progress"]["scenes"]] == [2.5, 2.5]
    assert await fixture.rows("SELECT id FROM outbox") == []


async def test_after_a_failed_mux_the_track_can_be_downloaded(fixture: ApiFixture) -> None:
    """The status is failed, with the reason and the track's link."""
    await fixture.apply(*a_complete_run()[:5], a_failure())
    status = await fixture.status("job-1")

    assert status["audio_status"]["status"] == "failed"
    assert status["audio_status"]["error"] == "m"
    assert status["failure"]["code"] == "c"
    assert status["links"]["download"]


async def test_a_newer_run_of_upstream_supersedes_and_later_results_of_the_older_are_kept(
    fixture: ApiFixture,
) -> None:
    """The status is the newer run's; the older results can be downloaded until it is done."""
    await fixture.apply(*a_complete_run()[:5])
    newer = a_scene(0, count=2, run=2, params=WITH_VIDEO)
    await fixture.apply(newer, *a_complete_run()[:1], a_failure(run=1), a_video(run=1))
    status = await fixture.status("job-1")

    assert status["run"] == 2
    assert status["audio_status"]["status"] == "processing"
    assert status["progress"]["percentage"] == 0
    assert status["links"]["download"]
    assert status["links"]["video"]
    assert await fixture.rows("SELECT run, status FROM runs ORDER BY run") == [
        {"run": 1, "status": "completed"},
        {"run": 2, "status": "submitted"},
    ]


async def test_two_runs_of_a_new_job_in_one_batch_are_both_stored(fixture: ApiFixture) -> None:
    """The scenes of both runs have rows."""
    events = [a_segment(0, count=2), a_scene(0, count=2), a_segment(0, count=2, run=2)]
    by_topic = [event for event in events if not isinstance(event, SceneRequested)]
    records = tuple(
        Record(
            topic="segment.generated",
            partition=0,
            offset=offset,
            key=b"job-1",
            value=event.model_dump_json().encode(),
        )
        for offset, event in enumerate(by_topic)
    )
    async with fixture.context.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    await fixture.applier.apply(
        Batch(topic="segment.generated", partition=0, start=0, end=2, records=records)
    )

    assert await fixture.rows("SELECT run, status FROM runs ORDER BY run") == [
        {"run": 1, "status": "superseded"},
        {"run": 2, "status": "generating"},
    ]
    assert await fixture.rows("SELECT count(*) AS n FROM scenes") == [{"n": 2}]


async def test_the_status_of_a_cancelled_run_has_the_reason(fixture: ApiFixture) -> None:
    """The status is cancelled."""
    await fixture.apply(a_scene(0, count=2), a_cancel())
    status = await fixture.status("job-1")

    assert status["audio_status"]["status"] == "cancelled"
    assert status["audio_status"]["error"] == "enough"


async def test_a_repeated_event_changes_no_row(fixture: ApiFixture) -> None:
    """The version that status streams wait for does not change either."""
    await fixture.apply(*a_complete_run())
    before = await fixture.rows("SELECT * FROM jobs"), await fixture.rows("SELECT * FROM runs")
    scenes = await fixture.rows("SELECT * FROM scenes ORDER BY scene_index")
    await fixture.apply(*a_complete_run())

    assert (
        await fixture.rows("SELECT * FROM jobs"),
        await fixture.rows("SELECT * FROM runs"),
    ) == before
    assert await fixture.rows("SELECT * FROM scenes ORDER BY scene_index") == scenes


async def test_an_undecodable_record_of_another_service_is_skipped(fixture: ApiFixture) -> None:
    """The topic's own consumer dead-letters it; here the offset moves on."""
    await fixture.apply_record("segment.generated", b"nonsense")
    await fixture.apply(a_segment(0, count=2))

    assert (await fixture.status("job-1"))["state"] == "generating"
    assert await fixture.rows("SELECT id FROM outbox") == []


async def test_a_nul_character_is_replaced(fixture: ApiFixture) -> None:
    """NUL is legal in JSON; PostgreSQL cannot store it."""
    await fixture.apply(
        a_scene(0, count=2, description="a\x00b"),
        a_segment(0, count=2, reason="c\x00d", warnings=("e\x00",)),
        a_failure().model_copy(update={"message": "f\x00g"}),
    )
    status = await fixture.status("job-1")

    assert status["audio_status"]["error"] == "f\ufffdg"
    assert status["progress"]["scenes"][0]["reason"] == "c\ufffdd"


async def test_an_unfinished_run_is_requested_again_in_a_new_log_once(fixture: ApiFixture) -> None:
    """Finished and superseded runs are not requested again."""
    database, clock, log = fixture.context.database, fixture.context.clock, fixture.context.log
    await fixture.post(job_id="open", scenes=TWO_SCENES, audio_params={"prompt": "p"})
    await fixture.post(job_id="open", scenes=TWO_SCENES, audio_params={"prompt": "q"})
    await fixture.apply(a_scene(0, count=1, job_id="upstream"))
    await fixture.apply(a_track(params=AudioParams()))
    await fixture.rows("DELETE FROM outbox")
    first = await resume_in_new_epoch(database, "another log", clock=clock, log=log)
    again = await resume_in_new_epoch(database, "another log", clock=clock, log=log)
    records = [json.loads(r["value"]) for r in await fixture.rows("SELECT value FROM outbox")]

    assert (first, again) == (3, 0)
    assert [(r["job_id"], r["run"], r["scene_index"]) for r in records] == [
        ("open", 2, 0),
        ("open", 2, 1),
        ("upstream", 1, 0),
    ]
    assert records[0]["params"]["prompt"] == "q"
    assert records[0]["description"] == "a calm lake"
