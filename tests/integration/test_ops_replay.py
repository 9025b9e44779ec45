"""`segue replay`, `segue job` and `segue lag` on real servers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from services.api.database.operators import run_state
from shared.clock import SystemClock
from shared.contract.events import AudioMerged, SceneRequested, SegmentGenerated, VideoMuxed
from shared.kafka.client import connection_options
from shared.kafka.log_reader import open_log_reader
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.api_fixture import TWO_SCENES
from tests.support.event_builders import a_scene
from tests.support.film_clips import film_clips
from tests.support.operator_commands import OperatorFixture, operator_fixture, segue
from tests.support.pipeline_fixture import OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of
from tests.support.run_builders import a_complete_run
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
WHY = ("--apply", "--reason", "to see")
TOPICS = (SceneRequested.kind, SegmentGenerated.kind, AudioMerged.kind, VideoMuxed.kind)
GROUPS = {
    "segue-generator": TOPICS[:1],
    "segue-merger": TOPICS[1:2],
    "segue-muxer": TOPICS[2:3],
    "segue-api": TOPICS,
}
ROWS = {
    "jobs": "SELECT * FROM jobs ORDER BY 1",
    "runs": "SELECT * FROM runs ORDER BY 1, 2",
    "scenes": "SELECT * FROM scenes ORDER BY 1, 2, 3",
}
UNREADABLE = b"{no event"


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers, without a service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        yield fixture


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """The four services."""
    async with open_pipeline() as running:
        yield running


async def wait_for_committed(pipeline: Pipeline) -> None:
    """Wait until every service has committed every stored record."""
    kafka = KafkaSettings.from_environment(
        bootstrap_servers=pipeline.kafka.bootstrap, topic_prefix=pipeline.prefix
    )
    admin = AIOKafkaAdminClient(**connection_options(kafka))
    await admin.start()
    try:
        async with open_log_reader(kafka, client_id="segue-ops") as reader:

            async def caught_up() -> bool | None:
                ends = {
                    (span.topic, span.partition): span.end
                    for topic in TOPICS
                    for span in await reader.ranges(topic)
                }
                assert len(ends) >= len(TOPICS), "every topic has a partition"
                for group, topics in GROUPS.items():
                    committed = await admin.list_consumer_group_offsets(pipeline.prefix + group)
                    read = {
                        (place.topic.removeprefix(pipeline.prefix), place.partition): at.offset
                        for place, at in committed.items()
                    }
                    for place, end in ends.items():
                        if place[0] in topics and end and read.get(place, 0) < end:
                            return None
                return True

            await eventually(caught_up, within_s=60, what="every record committed")
    finally:
        await admin.close()


async def rows(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return every row of every job, as text."""
    database = await asyncpg.connect(pipeline.services["api"].environment["DATABASE_URL"])
    try:
        return {name: [str(row) for row in await database.fetch(ROWS[name])] for name in ROWS}
    finally:
        await database.close()


def objects(pipeline: Pipeline) -> dict[str, tuple[int, int]]:
    """Return every object with its size and modification time."""
    files = [path for path in (pipeline.folder / "store").rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


async def test_replaying_finished_work_changes_no_row_and_generates_nothing(
    pipeline: Pipeline,
) -> None:
    """A second replay copies the same records again, not the copies of the first."""
    environment = pipeline.services["api"].environment
    await pipeline.generate(job_id="j", scenes=TWO_SCENES)
    await pipeline.generate(job_id="other", scenes=TWO_SCENES[:1])
    await pipeline.ended("j")
    await pipeline.ended("other")
    await wait_for_committed(pipeline)
    before, objects_before = await rows(pipeline), objects(pipeline)
    log = await records_of(pipeline.kafka.bootstrap, *TOPICS, prefix=pipeline.prefix)

    dry = await segue(environment, "replay", "--job", "j")
    untouched = await records_of(pipeline.kafka.bootstrap, *TOPICS, prefix=pipeline.prefix)
    once = await segue(environment, "replay", "--job", "j", *WHY)
    await wait_for_committed(pipeline)
    twice = await segue(environment, "replay", "--job", "j", *WHY)
    whole = await segue(environment, "replay", SceneRequested.kind, *WHY)
    await wait_for_committed(pipeline)
    after = await records_of(pipeline.kafka.bootstrap, *TOPICS, prefix=pipeline.prefix)

    assert dry[0] == once[0] == twice[0] == whole[0] == 0, (dry, once, twice, whole)
    assert dry[1]["topics"] == {
        SceneRequested.kind: 2,
        SegmentGenerated.kind: 2,
        AudioMerged.kind: 1,
    }
    assert (dry[1]["already_done"], dry[1]["calls_at_most"], dry[1]["cost_usd_at_most"]) == (
        5,
        0,
        0,
    )
    assert untouched == log
    assert once[1]["copied"] == twice[1]["copied"] == 5
    assert (whole[1]["copied"], whole[1]["left_out"]["copies"]) == (3, 4)
    assert await rows(pipeline) == before
    assert {
        name: state for name, state in objects(pipeline).items() if name in objects_before
    } == objects_before
    assert set(objects(pipeline)) == set(objects_before)
    copies = [record for record in after if record.header("replay-id") is not None]
    origins = {f"{record.topic}/{record.partition}/{record.offset}": record for record in log}
    # services publish stored results again: those records are no copies
    assert len(copies) == 5 + 5 + 3
    for copy in copies:
        origin = origins[copy.header("replay-origin") or ""]
        assert (copy.topic, copy.partition) == (origin.topic, origin.partition)
        assert (copy.key, copy.value) == (origin.key, origin.value)
        assert copy.headers[: len(origin.headers)] == origin.headers


async def test_replaying_the_track_completes_a_job_whose_mux_failed(
    pipeline: Pipeline,
) -> None:
    """The film was missing and is available now."""
    environment = pipeline.services["api"].environment
    film = film_clips().bikes
    video = await pipeline.upload(film)
    place = pipeline.folder / "store" / video["object"]
    accepted = await pipeline.generate(
        job_id="j", scenes=TWO_SCENES, video=video, audio_params={"merge_with_video": True}
    )
    assert accepted.status_code == 202, accepted.text

    async def film_checked() -> bool | None:
        return any("/segment" in name for name in objects(pipeline)) or None

    # the generator checks the film before its first scene
    await eventually(film_checked, within_s=30, what="the first segment")
    hidden = place.rename(pipeline.folder / "hidden")
    failed = await pipeline.ended("j")
    await wait_for_committed(pipeline)
    hidden.rename(place)
    claims = [name for name in objects(pipeline) if "claim" in name]

    dry = await segue(environment, "replay", AudioMerged.kind, "--job", "j")
    done = await segue(environment, "replay", AudioMerged.kind, "--job", "j", *WHY)

    async def completed() -> bool | None:
        status = await pipeline.status("j")
        return (status is not None and status["audio_status"]["status"] == "completed") or None

    await eventually(completed, within_s=60, what="the video")

    history = await segue(environment, "job", "j")
    unknown = await segue(environment, "job", "unknown")

    assert failed["audio_status"]["status"] == "failed"
    assert (dry[1]["runs"], dry[1]["already_done"]) == ({"failed": 1}, 0)
    assert (done[0], done[1]["copied"]) == (0, 1)
    assert [name for name in objects(pipeline) if "claim" in name] == claims
    assert (history[0], history[1]["runs"]) == (0, [{"run": 1, "status": "completed"}])
    replays = [(event["topic"], event["replay"]) for event in history[1]["events"]]
    assert replays[:2] == [(SceneRequested.kind, None)] * 2
    assert (AudioMerged.kind, None) in replays
    assert replays[-2:] == [(AudioMerged.kind, str(done[1]["replay"])), (VideoMuxed.kind, None)]
    assert any("failed at mux" in event["summary"] for event in history[1]["events"])
    assert (unknown[0], "job unknown not found" in unknown[1]["error"]) == (4, True)


def records(count: int = 1, *, job_id: str = "job-1") -> list[SceneRequested]:
    """Return the requests of a run."""
    return [a_scene(i, count=count).model_copy(update={"job_id": job_id}) for i in range(count)]


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "name a TOPIC, or a job"),
    (("scene.wished",), 2, "topic scene.wished not found; topics: video.stitched"),
    (("scene.requested.dlq",), 2, "dead letters"),
    (("--job", "unknown"), 4, "job unknown not found"),
    (("scene.requested", "--partition", "99"), 4, "no partition 99"),
    (("scene.requested", "--from-offset", "3"), 2, "--partition"),
    (("--job", "job-1", "--partition", "0"), 2, "name the TOPIC"),
    (("scene.requested", "--partition", "0", "--from-offset", "1"), 4, "begins at offset 2"),
    (("scene.requested", "--partition", "0", "--from-offset", "9"), 4, "ends at offset 4"),
    (("scene.requested", "--partition", "0", "--to-offset", "5"), 4, "ends at offset 4"),
    (("scene.requested", "--partition", "1"), 4, "left out: 1 record not an event"),
    (("scene.requested", "--partition", "0", "--from-offset", "4"), 4, "no record is selected"),
    (("video.muxed",), 4, "no record is selected"),
    (("scene.requested", "--since", "2099-01-01"), 2, "in the future"),
    (("scene.requested", "--until", "2020-01-01"), 4, "no record is selected"),
    (("scene.requested", "--since", "2021-01-01", "--until", "2020-01-01"), 2, "before"),
]


async def test_an_invalid_replay_is_rejected_and_changes_nothing(
    fixture: OperatorFixture,
) -> None:
    """Each has its own message, with and without --apply."""
    await fixture.publish(records(4), partition=0)
    await _cut_before(fixture, "scene.requested", partition=0, offset=2)
    await _publish_raw(fixture, "scene.requested", UNREADABLE, partition=1)
    before = await fixture.log("scene.requested", "video.muxed")

    for at in range(0, len(REFUSED), 4):  # four processes at a time
        some = REFUSED[at : at + 4]
        answers = await asyncio.gather(
            *(fixture.segue("replay", *arguments) for arguments, *_ in some)
        )
        for (arguments, code, message), answer in zip(some, answers, strict=True):
            assert (answer[0], message in answer[1]["error"]) == (code, True), (arguments, answer)
    applied = await fixture.segue("replay", *REFUSED[-2][0], *WHY)

    assert (applied[0], REFUSED[-2][2] in applied[1]["error"]) == (4, True)
    assert await fixture.log("scene.requested", "video.muxed") == before
    assert await fixture.api.rows("SELECT * FROM operator_actions") == []


async def test_a_running_job_is_replayed_only_with_force_and_the_plan_has_its_cost(
    fixture: OperatorFixture,
) -> None:
    """Two scenes are not generated yet: two calls at most. Without a reason nothing changes."""
    await fixture.api.post(job_id="job-1", scenes=TWO_SCENES)
    await fixture.publish(records(2))

    dry = await fixture.segue("replay", "scene.requested")
    refused = await fixture.segue("replay", "scene.requested", *WHY)
    unreasoned = await fixture.segue("replay", "scene.requested", "--apply", "--force")
    silent = await fixture.log("scene.requested")
    forced = await fixture.segue("replay", "scene.requested", *WHY, "--force")

    assert (dry[0], dry[1]["running_jobs"], dry[1]["calls_at_most"]) == (0, ["job-1"], 2)
    assert dry[1]["cost_usd_at_most"] > 0
    assert refused[0] == 4
    assert "still running: job-1" in refused[1]["error"]
    assert (unreasoned[0], len(silent)) == (2, 2)
    assert (forced[0], forced[1]["copied"]) == (0, 2)
    [row] = await fixture.api.rows("SELECT who, reason, state, command FROM operator_actions")
    assert row == {"who": "an-operator", "reason": "to see", "state": "done", "command": "replay"}


async def test_lag_is_reported_in_records_and_seconds(fixture: OperatorFixture) -> None:
    """No service runs: every consumer is behind, as long as the records are old."""
    nothing = await fixture.segue("lag")
    await fixture.publish(records(3), partition=0)
    await asyncio.sleep(1)
    code, result = await fixture.segue("lag")

    assert (nothing[0], code) == (0, 0), (nothing, result)
    assert {row["records"] for row in nothing[1]["lag"]} == {0}
    behind = {row["service"]: row for row in result["lag"] if row["records"]}
    assert sorted(behind) == ["api", "generator"]
    for row in behind.values():
        assert (row["topic"], row["records"], row["partitions_behind"]) == ("scene.requested", 3, 1)
        assert 1 <= row["seconds"] < 60


async def test_only_one_replay_runs_at_a_time(fixture: OperatorFixture) -> None:
    """A dry run needs no lock."""
    await fixture.api.apply(*a_complete_run())
    await fixture.publish(records(2))
    async with fixture.api.context.database.dedicated() as other:
        assert await run_state.try_replay_lock(other)
        dry = await fixture.segue("replay", "scene.requested")
        refused = await fixture.segue("replay", "scene.requested", *WHY)

    assert (dry[0], dry[1]["already_done"]) == (0, 2)
    assert refused[0] == 4
    assert "is running" in refused[1]["error"]
    assert len(await fixture.log("scene.requested")) == 2


async def test_offset_and_time_bounds_select_records(fixture: OperatorFixture) -> None:
    """The end of a range is exclusive."""
    await fixture.api.apply(*a_complete_run())
    await fixture.publish(records(4), partition=0)
    await asyncio.sleep(0.05)
    middle = SystemClock().now()
    await asyncio.sleep(1.05)  # the options take whole seconds
    await fixture.publish(records(3), partition=0)
    cut = (middle + timedelta(seconds=1)).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%S")

    offsets = await _records(fixture, "--partition", "0", "--from-offset", "1", "--to-offset", "3")
    late = await _records(fixture, "--since", cut)
    early = await _records(fixture, "--until", cut)

    assert (offsets, late, early) == (2, 3, 4)


async def _records(fixture: OperatorFixture, *options: str) -> Any:
    code, result = await fixture.segue("replay", "scene.requested", *options)
    assert code == 0, result
    return result["records"]


async def _cut_before(fixture: OperatorFixture, topic: str, *, partition: int, offset: int) -> None:
    admin = AIOKafkaAdminClient(**connection_options(fixture.kafka))
    await admin.start()
    try:
        place = TopicPartition(fixture.kafka.topic_prefix + topic, partition)
        await admin.delete_records({place: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def _publish_raw(
    fixture: OperatorFixture, topic: str, value: bytes, *, partition: int
) -> None:
    publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
    await publisher.start()
    try:
        await publisher.send(
            topic=topic, key=b"job-1", value=value, headers=(), partition=partition
        )
    finally:
        await publisher.stop()
