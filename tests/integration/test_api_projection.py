"""The projection on a real database: what events make of jobs, exactly once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api.applying import Batch, StaleBatchError
from services.api.repository import offsets
from services.api.resuming import resume_in_new_epoch
from shared.brief import AudioParams
from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.events import Origin, SceneRequested, Seam
from shared.kafka.codec import Record, encode
from tests.api_line import TWO_SCENES, EdgeLine, edge_line
from tests.builders import a_scene, a_segment
from tests.servers import Database
from tests.unit.api.test_projection import (
    WITH_VIDEO,
    a_cancel,
    a_failure,
    a_track,
    a_video,
    the_line,
)

pytestmark = pytest.mark.integration
STITCHED = "video.stitched"
#: A fault of ours that no record could provoke otherwise: every known one is refused before.
TRIP = """
    CREATE FUNCTION trip() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'tripped' USING ERRCODE = 'numeric_value_out_of_range'; END $$
"""
ON_SCENES = """
    CREATE TRIGGER trip BEFORE INSERT ON scenes FOR EACH ROW
    WHEN (NEW.scene_index = 7) EXECUTE FUNCTION trip()
"""


@pytest.fixture
async def line(postgres: Database, store_folder: Path) -> AsyncIterator[EdgeLine]:
    """The edge on a new database."""
    async with edge_line(await postgres(), store_folder) as line:
        yield line


@pytest.fixture
async def auto(postgres: Database, store_folder: Path) -> AsyncIterator[EdgeLine]:
    """The same with AUTO_GENERATE_AUDIO."""
    async with edge_line(await postgres(), store_folder, auto_generate=True) as line:
        yield line


def stitched(**fields: Any) -> bytes:
    """What upstream says, as bare JSON."""
    return json.dumps({"job_id": "up-1", "scenes": TWO_SCENES, **fields}).encode()


async def test_the_status_tells_the_whole_line(line: EdgeLine) -> None:
    """The contract's fields, the facts, and a link where there is something."""
    await line.post(
        job_id="job-1",
        scenes=TWO_SCENES,
        video="https://x.example/v.mp4",
        audio_params={"merge_with_video": True},
    )
    asked, *segments = the_line()[1:4]
    await line.hear(asked, segments[0])
    halfway = await line.status("job-1")
    silent = a_segment(1, count=2, params=WITH_VIDEO, origin=Origin.SILENCE, reason="busy")
    seam = Seam(scene_index=1, at_samples=120_000, kind="fade")
    track = a_track().model_copy(update={"seams": (seam,), "warnings": ("quiet",)})
    await line.hear(silent, track, a_video())
    told = await line.status("job-1")

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
    assert told["audio_status"]["status"] == "completed"
    assert told["audio_status"]["generated_at"].endswith("Z")
    assert told["audio_status"]["size"] == 1000
    assert told["audio_status"]["merged_with_video"] is True
    assert told["progress"]["stage"] == "audio_completed"
    assert told["progress"]["percentage"] == 100
    assert told["track"]["loudness_lufs"] == -14.0
    assert told["track"]["seams"][0]["at_samples"] == 120_000
    assert told["silent_scenes"] == [1]
    assert told["progress"]["scenes"][1]["reason"] == "busy"
    assert told["warnings"] == ["quiet"]
    assert told["links"]["download"] == "/api/v3/audio/job-1/download"
    assert told["links"]["video"] == "/api/v3/audio/job-1/video"


async def test_the_jobs_row_keeps_the_contracts_progress(line: EdgeLine) -> None:
    """audio_status, audio_generated_at, audio_size, video_with_audio."""
    await line.hear(*the_line())
    [row] = await line.rows("SELECT progress FROM jobs")
    progress = json.loads(row["progress"])

    assert progress["audio_status"] == "completed"
    assert progress["audio_generated_at"].endswith("Z")
    assert progress["audio_size"] == 1000
    assert progress["video_with_audio"] is True


async def test_an_upstream_that_never_calls_the_api_has_its_status(line: EdgeLine) -> None:
    """Its events make the job and the run; nothing is put into the outbox for it."""
    await line.hear(a_scene(0, count=2), a_scene(1, count=2), a_segment(0, count=2))
    told = await line.status("job-1")

    assert told["run"] == 1
    assert told["state"] == "generating"
    assert [scene["duration_s"] for scene in told["progress"]["scenes"]] == [2.5, 2.5]
    assert await line.rows("SELECT id FROM outbox") == []


async def test_a_failed_mux_is_failed_and_the_track_stays(line: EdgeLine) -> None:
    """With the reason, and the link."""
    await line.hear(*the_line()[:5], a_failure())
    told = await line.status("job-1")

    assert told["audio_status"]["status"] == "failed"
    assert told["audio_status"]["error"] == "m"
    assert told["failure"]["code"] == "c"
    assert told["links"]["download"]


async def test_a_newer_run_of_upstream_supersedes_and_the_older_is_not_heard_any_more(
    line: EdgeLine,
) -> None:
    """Also when both are in one batch; the finished track of the older stays downloadable."""
    await line.hear(*the_line()[:5])
    newer = a_scene(0, count=2, run=2, params=WITH_VIDEO)
    await line.hear(newer, *the_line()[:1], a_failure(run=1), a_video(run=1))
    told = await line.status("job-1")

    assert told["run"] == 2
    assert told["audio_status"]["status"] == "processing"
    assert told["progress"]["percentage"] == 0
    assert told["links"]["download"]
    assert told["links"]["video"] is None
    assert await line.rows("SELECT run, status FROM runs ORDER BY run") == [
        {"run": 1, "status": "superseded"},
        {"run": 2, "status": "submitted"},
    ]


async def test_two_runs_of_a_new_job_in_one_batch_are_both_kept(line: EdgeLine) -> None:
    """The older one's scenes have their rows, too."""
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
    async with line.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    await line.applier.apply(
        Batch(topic="segment.generated", partition=0, start=0, end=2, records=records)
    )

    assert await line.rows("SELECT run, status FROM runs ORDER BY run") == [
        {"run": 1, "status": "superseded"},
        {"run": 2, "status": "generating"},
    ]
    assert await line.rows("SELECT count(*) AS n FROM scenes") == [{"n": 2}]


async def test_a_cancelled_run_says_so(line: EdgeLine) -> None:
    """With the reason that was given."""
    await line.hear(a_scene(0, count=2), a_cancel())
    told = await line.status("job-1")

    assert told["audio_status"]["status"] == "cancelled"
    assert told["audio_status"]["error"] == "enough"


async def test_an_event_said_again_changes_no_row(line: EdgeLine) -> None:
    """Not even the version that followers wait for."""
    await line.hear(*the_line())
    before = await line.rows("SELECT * FROM jobs"), await line.rows("SELECT * FROM runs")
    scenes = await line.rows("SELECT * FROM scenes ORDER BY scene_index")
    await line.hear(*the_line())

    assert (await line.rows("SELECT * FROM jobs"), await line.rows("SELECT * FROM runs")) == before
    assert await line.rows("SELECT * FROM scenes ORDER BY scene_index") == scenes


async def test_of_two_projectors_every_stale_batch_is_refused(line: EdgeLine) -> None:
    """A zombie and its successor apply the same hundred batches: each counts once."""
    batches = []
    for offset in range(100):
        event = a_segment(offset, count=100)
        record = encode(event, source="t", now=SystemClock().now())
        read = Record(
            topic=record.topic, partition=0, offset=offset, key=record.key, value=record.value
        )
        batches.append(
            Batch(topic=record.topic, partition=0, start=offset, end=offset + 1, records=(read,))
        )
    async with line.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    outcomes = []

    async def project() -> None:
        for batch in batches:
            try:
                await line.applier.apply(batch)
                outcomes.append((batch.start, "applied"))
            except StaleBatchError:
                outcomes.append((batch.start, "refused"))

    await asyncio.gather(project(), project())

    assert sorted(outcomes) == sorted(
        (number, how) for number in range(100) for how in ("applied", "refused")
    )
    assert await line.rows("SELECT count(*) AS n FROM scenes") == [{"n": 100}]


async def test_what_stitching_says_waits_to_be_asked(line: EdgeLine) -> None:
    """Without AUTO_GENERATE_AUDIO the job is there, and a POST that names it starts it."""
    await line.hear_raw(STITCHED, stitched(audio_params={"prompt": "from upstream"}))
    told = await line.status("up-1")
    answer = await line.post(job_id="up-1")
    records = await line.rows("SELECT value FROM outbox ORDER BY id")

    assert told["audio_status"]["status"] == "pending"
    assert told["progress"]["stage"] == "audio_generation_pending"
    assert told["run"] == 0
    assert answer.status_code == 202
    assert json.loads(records[0]["value"])["params"]["prompt"] == "from upstream"


async def test_with_auto_generation_stitching_starts_a_run_once(auto: EdgeLine) -> None:
    """The same content again, even much later and written differently, changes nothing."""
    await auto.hear_raw(STITCHED, stitched())
    await auto.hear_raw(STITCHED, stitched(unknown="field"))
    other = stitched(scenes=[{"duration_s": 9}])
    await auto.hear_raw(STITCHED, other)
    await auto.hear_raw(STITCHED, stitched())
    await auto.hear_raw(STITCHED, other)
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
    auto: EdgeLine, value: bytes | None, reason: str
) -> None:
    """Whole, through the outbox, in the transaction that moves the offset; the next is read."""
    await auto.hear_raw(STITCHED, value, key=b"k")
    await auto.hear_raw(STITCHED, stitched(job_id="up-2"))
    letter, *rest = await auto.rows("SELECT * FROM outbox ORDER BY id")
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))

    assert (letter["topic"], letter["key"], letter["value"]) == (f"{STITCHED}.dlq", b"k", value)
    assert reason in headers["dlq-reason"].decode()
    assert headers["dlq-origin-topic"] == STITCHED.encode()
    assert headers["dlq-origin-offset"] == b"0"
    assert len(rest) == 2
    assert await auto.rows("SELECT job_id FROM jobs") == [{"job_id": "up-2"}]


async def test_an_unreadable_record_of_another_topic_is_passed_over(line: EdgeLine) -> None:
    """Its owner dead-letters it; here the offset moves on."""
    await line.hear_raw("segment.generated", b"nonsense")
    await line.hear(a_segment(0, count=2))

    assert (await line.status("job-1"))["state"] == "generating"
    assert await line.rows("SELECT id FROM outbox") == []


async def test_a_character_that_the_database_cannot_hold_stops_nothing(line: EdgeLine) -> None:
    """NUL is legal in JSON, and PostgreSQL has no room for it."""
    await line.hear(
        a_scene(0, count=2, description="a\x00b"),
        a_segment(0, count=2, reason="c\x00d", warnings=("e\x00",)),
        a_failure().model_copy(update={"message": "f\x00g"}),
    )
    told = await line.status("job-1")

    assert told["audio_status"]["error"] == "f\ufffdg"
    assert told["progress"]["scenes"][0]["reason"] == "c\ufffdd"


async def test_a_record_that_trips_the_database_is_found_and_the_rest_is_applied(
    line: EdgeLine,
) -> None:
    """A bug stops its record, never the topic: it becomes a dead letter with its traceback."""
    await line.rows(TRIP)
    await line.rows(ON_SCENES)
    events = [a_segment(index, count=9) for index in (0, 7, 1)]
    records = tuple(
        Record(
            topic="segment.generated",
            partition=0,
            offset=offset,
            key=b"job-1",
            value=event.model_dump_json().encode(),
        )
        for offset, event in enumerate(events)
    )
    async with line.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [("segment.generated", 0)])
    await line.applier.apply(
        Batch(topic="segment.generated", partition=0, start=0, end=3, records=records)
    )
    scenes = await line.rows("SELECT scene_index FROM scenes ORDER BY scene_index")
    [letter] = await line.rows("SELECT topic, header_names, header_values FROM outbox")
    headers = dict(zip(letter["header_names"], letter["header_values"], strict=True))

    assert [scene["scene_index"] for scene in scenes] == [0, 1]
    assert letter["topic"] == "segment.generated.dlq"
    assert b"Traceback" in headers["dlq-stack"]
    assert await line.rows("SELECT next_offset FROM projection_offsets") == [{"next_offset": 3}]


async def test_a_batch_that_the_database_could_not_take_is_not_half_applied(
    line: EdgeLine,
) -> None:
    """Its rows and its offset stand or fall together."""
    [record] = [encode(a_segment(0, count=2), source="t", now=SystemClock().now())]
    read = Record(topic=record.topic, partition=7, offset=0, key=record.key, value=record.value)
    batch = Batch(topic=record.topic, partition=7, start=0, end=1, records=(read,))
    async with line.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [(record.topic, 7)])
    async with line.edge.database.transaction() as connection:
        await connection.execute("LOCK TABLE scenes IN ACCESS EXCLUSIVE MODE")
        applying = asyncio.create_task(line.applier.apply(batch))
        await _blocked(line)
        await line.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with pytest.raises(RetryableError):
            await applying

    assert await line.rows("SELECT job_id FROM jobs") == []
    await line.applier.apply(batch)
    assert await line.rows("SELECT job_id FROM jobs") == [{"job_id": "job-1"}]


async def _blocked(line: EdgeLine) -> None:
    """Return once somebody waits for a lock."""
    async with asyncio.timeout(10):
        while not await line.rows(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            pass


async def test_a_new_log_is_asked_again_for_what_is_unfinished_once(line: EdgeLine) -> None:
    """Of finished and superseded runs nothing is said again."""
    database, clock, log = line.edge.database, line.edge.clock, line.edge.log
    await line.post(job_id="open", scenes=TWO_SCENES, audio_params={"prompt": "p"})
    await line.post(job_id="open", scenes=TWO_SCENES, audio_params={"prompt": "q"})
    await line.hear(a_scene(0, count=1, job_id="upstream"))
    await line.hear(a_track(params=AudioParams()))
    await line.rows("DELETE FROM outbox")
    first = await resume_in_new_epoch(database, "another log", clock=clock, log=log)
    again = await resume_in_new_epoch(database, "another log", clock=clock, log=log)
    records = [json.loads(r["value"]) for r in await line.rows("SELECT value FROM outbox")]

    assert (first, again) == (3, 0)
    assert [(r["job_id"], r["run"], r["scene_index"]) for r in records] == [
        ("open", 2, 0),
        ("open", 2, 1),
        ("upstream", 1, 0),
    ]
    assert records[0]["params"]["prompt"] == "q"
    assert records[0]["description"] == "a calm lake"
