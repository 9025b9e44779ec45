"""`segue redrive`: regenerates a part of a job, keeps the rest, rejects invalid use."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from replicate_server import FaultKind, ReplicateEmulator
from services.api.database import runs
from services.api.database.operators import retention
from services.api.domain.redrive import RedriveError, RedriveRequest
from services.api.runs.start import start_redrive
from shared.clock import SystemClock
from shared.contract.events import SceneRequested, SegmentGenerated, VideoStitched
from shared.media.decode import decode
from shared.media.samples import SAMPLE_RATE_HZ
from shared.pricing import PricingSettings
from shared.storage import keys
from shared.storage.filesystem import FolderStore
from tests.integration.test_ops_replay import objects, rows
from tests.support.api_fixture import NOWHERE, TWO_SCENES
from tests.support.event_builders import a_segment
from tests.support.film_clips import film_clips
from tests.support.operator_commands import OperatorFixture, operator_fixture, segue
from tests.support.pipeline_fixture import BASE, OpenPipeline, Pipeline
from tests.support.processes import records_of, value_of
from tests.support.replicate_provider import a_fake, account_of
from tests.support.run_builders import a_complete_run, a_failure
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
WHY = ("--apply", "--reason", "to hear it")
SCENES = [
    {"description": f"a {mood} moment", "duration_s": seconds}
    for mood, seconds in (("calm", 1.7), ("elegant", 2.3), ("dramatic", 1.25), ("tense", 2.0))
]
SAMPLES = round(7.25 * SAMPLE_RATE_HZ)


@pytest.fixture
async def replicate() -> AsyncIterator[ReplicateEmulator]:
    """An emulator whose predictions take a tenth of a second."""
    async with a_fake(0.1) as started:
        yield started


@pytest.fixture
async def pipeline(
    open_pipeline: OpenPipeline, replicate: ReplicateEmulator
) -> AsyncIterator[Pipeline]:
    """Four services with a cache; the generator uses the emulator."""
    async with open_pipeline(
        SEGUE_SCENE_CACHE="all",
        SEGUE_SCENE_ATTEMPTS_MAX="1",
        **account_of(replicate),
    ) as running:
        yield running


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers, without a service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        yield fixture


async def redriven(pipeline: Pipeline, job_id: str, run: int, *options: str) -> dict[str, Any]:
    """Redrive the job; return the status of the new run once it has ended."""
    environment = pipeline.services["api"].environment
    code, result = await segue(environment, "redrive", job_id, *options, *WHY)
    assert (code, result.get("run")) == (0, run), result
    return await pipeline.ended(job_id, run=run)


async def clips(pipeline: Pipeline, job_id: str, run: int) -> list[str]:
    """Return the hashes of a run's clips, which are stored under the run."""
    store, hashes = FolderStore(pipeline.folder / "store"), []
    for index in range(4):
        data = await store.get(keys.segment_key(job_id, run, index))
        segment = SegmentGenerated.model_validate_json(data)
        assert segment.object_key is not None
        assert segment.object_key.startswith(keys.run_prefix(job_id, run) + "/")
        hashes.append(hashlib.sha256(await store.get(segment.object_key)).hexdigest())
    return hashes


async def test_a_redrive_regenerates_the_named_scenes_and_keeps_the_rest(
    pipeline: Pipeline, replicate: ReplicateEmulator, tmp_path: Path
) -> None:
    """One scene is one charge, two are two; a video is none, with the same track."""
    environment = pipeline.services["api"].environment
    video = await pipeline.upload(film_clips().bikes)
    film = pipeline.folder / "store" / video["object"]
    await pipeline.generate(
        job_id="j", scenes=SCENES, video=video, audio_params={"merge_with_video": True}
    )
    await pipeline.ended("j")
    before = await rows(pipeline), objects(pipeline), await _log(pipeline)
    first = await clips(pipeline, "j", 1)

    dry = await segue(environment, "redrive", "j", "--scene", "2")
    refused = await segue(environment, "redrive", "j", *WHY)
    untouched = await rows(pipeline), objects(pipeline), await _log(pipeline)

    assert untouched == before
    assert (dry[0], dry[1]["applied"]) == (0, False)
    assert (dry[1]["made"], dry[1]["kept"], dry[1]["bridged"]) == ([1], [0, 2, 3], [2])
    assert (refused[0], "run 1 is completed" in refused[1]["error"]) == (4, True)

    status = await redriven(pipeline, "j", 2, "--scene", "2")
    second = await clips(pipeline, "j", 2)

    assert status["audio_status"]["status"] == "completed", status
    assert len(replicate.ledger.charged) == 5
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    seams = {seam["scene_index"]: seam for seam in status["track"]["seams"]}
    assert [seams[index]["kind"] for index in (1, 2, 3)] == ["splice", "fade", "splice"]
    assert seams[2]["bridge_samples"] > SAMPLE_RATE_HZ // 5
    assert seams[2]["click"] <= 10
    assert "scene 3 is kept, but the music before it was generated again" in status["warnings"][0]
    costs = [scene["cost_usd"] for scene in status["progress"]["scenes"]]
    assert costs[1] > costs[0] == costs[2] == costs[3] == 0
    track = await pipeline.save(f"{BASE}/j/download", tmp_path / "track.mp3")
    assert decode(track.read_bytes()).shape[1] == SAMPLES

    await redriven(pipeline, "j", 3, "--from", "3")
    third = await clips(pipeline, "j", 3)

    assert len(replicate.ledger.charged) == 7
    assert [a == b for a, b in zip(second, third, strict=True)] == [True, True, False, False]

    hidden = film.rename(pipeline.folder / "hidden")
    failed = await redriven(pipeline, "j", 4, "--stage", "mux")
    hidden.rename(film)
    mended = await redriven(pipeline, "j", 5)

    assert [row["audio_status"]["status"] for row in (failed, mended)] == ["failed", "completed"]
    assert len(replicate.ledger.charged) == 7
    assert await _track(pipeline, 3) == await _track(pipeline, 4) == await _track(pipeline, 5)
    assert mended["video"] is not None
    story = (await segue(environment, "job", "j"))[1]
    assert [(row["of_run"], row["run"], row["made"]) for row in story["redrives"]] == [
        (1, 2, [1]),
        (2, 3, [2, 3]),
        (3, 4, []),
        (4, 5, []),
    ]


async def test_a_run_that_failed_at_a_scene_is_continued_there(
    pipeline: Pipeline, replicate: ReplicateEmulator
) -> None:
    """Finished scenes are kept; the others are generated once each."""
    await pipeline.generate(job_id="other", scenes=SCENES[:1])
    await pipeline.ended("other")  # scene 0 is in the cache: the fault strikes scene 1
    replicate.fault(FaultKind.FAIL_WITH, value="out of memory")
    await pipeline.generate(job_id="j", scenes=SCENES, audio_params={"error_strategy": "halt"})
    stopped = await pipeline.ended("j")
    charged = len(replicate.ledger.charged)

    status = await redriven(pipeline, "j", 2)

    assert stopped["audio_status"]["status"] == "failed"
    assert status["audio_status"]["status"] == "completed", status
    assert len(replicate.ledger.charged) == charged + 3
    assert [scene["origin"] for scene in status["progress"]["scenes"]] == ["cached"] + [
        "continued"
    ] * 3
    requests = [
        value_of(record)
        for record in await records_of(
            pipeline.kafka.bootstrap, "scene.requested", prefix=pipeline.prefix
        )
    ]
    kept = [
        request["kept"] for request in requests if (request["job_id"], request["run"]) == ("j", 2)
    ]
    assert kept == [{"run": 1, "bridged": False, "track": False}, None, None, None]


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("unknown", "--scene", "1"), 4, "job unknown not found"),
    (("unasked", "--scene", "1"), 4, "no run yet"),
    (("running", "--scene", "1"), 4, "still running (submitted): wait"),
    (("job-1",), 4, "run 1 is completed: choose what"),
    (("job-1", "--scene", "3"), 4, "--scene 3: run 1 has scenes 1 to 2"),
    (("job-1", "--scene", "1"), 4, "scene 2: its clip of run 1 is no longer in the store"),
    (("job-1", "--stage", "merge"), 4, "use --from 2 to regenerate them"),
    (("job-1", "--stage", "mux"), 4, "run 1 was requested without a video"),
    (("job-1", "--scene", "1", "--from", "1"), 2, "--scene and --from: use only one"),
    (("job-1", "--from", "1", "--apply"), 2, "--reason"),
]


async def test_an_invalid_redrive_is_rejected_and_changes_nothing(
    fixture: OperatorFixture,
) -> None:
    """Each has its own message, with and without --apply."""
    await fixture.api.apply(*a_complete_run())
    await _stored(fixture, a_segment(0, count=2), clip=True)
    await _stored(fixture, a_segment(1, count=2), clip=False)
    stitched = VideoStitched.model_validate({"job_id": "unasked", "scenes": TWO_SCENES})
    await fixture.api.apply(stitched)
    await fixture.api.post(job_id="running", scenes=TWO_SCENES)

    for at in range(0, len(REFUSED), 3):  # three processes at a time
        some = REFUSED[at : at + 3]
        answers = await asyncio.gather(
            *(
                fixture.segue("redrive", *arguments, *(() if code == 2 else WHY))
                for arguments, code, _ in some
            )
        )
        for (arguments, code, message), answer in zip(some, answers, strict=True):
            assert (answer[0], message in answer[1]["error"]) == (code, True), (arguments, answer)

    assert await fixture.api.rows("SELECT * FROM operator_actions") == []
    assert await fixture.api.rows("SELECT * FROM runs WHERE run > 1") == []
    assert await fixture.log("scene.requested") == []


async def test_an_interrupted_redrive_resumes_the_run_that_it_started(
    fixture: OperatorFixture,
) -> None:
    """Kafka was unavailable for the publish; a redrive of an older run is rejected."""
    await fixture.api.apply(*a_complete_run()[:-1], a_failure())
    for index in range(2):
        await _stored(fixture, a_segment(index, count=2), clip=True)
    command = ("redrive", "job-1", "--scene", "2", *WHY)

    unavailable = await segue({**fixture.environment, "KAFKA_BOOTSTRAP_SERVERS": NOWHERE}, *command)
    waiting = await fixture.log("scene.requested")
    again = await fixture.segue(*command)
    requests = [value_of(record) for record in await fixture.log("scene.requested")]

    assert (unavailable[0], waiting) == (3, [])
    assert (again[0], again[1]["run"]) == (0, 2), again
    assert [request["kept"] and request["kept"]["run"] for request in requests] == [1, None]
    assert [request["anew"] for request in requests] == [False, True]
    [row] = await fixture.api.rows("SELECT command, who, reason, state FROM operator_actions")
    assert list(row.values()) == ["redrive", "an-operator", "to hear it", "done"]
    [run] = await fixture.api.rows("SELECT estimate FROM runs WHERE run = 2")
    assert '"music_s": 4' in run["estimate"]  # 2.5 s, whole, and the window
    async with fixture.api.context.database.transaction() as connection:
        with pytest.raises(RedriveError, match="run 1 is no longer the newest run"):
            await start_redrive(
                connection,
                "job-1",
                RedriveRequest(scene=1),
                of_run=1,
                pricing=PricingSettings(),
                now=SystemClock().now(),
            )


async def test_the_rows_alone_know_what_a_run_keeps(fixture: OperatorFixture) -> None:
    """A new log gets the same requests from the rows; a sweep spares what the run keeps."""
    await fixture.api.apply(*a_complete_run())
    for index in range(2):
        await _stored(fixture, a_segment(index, count=2), clip=True)
    code, result = await fixture.segue("redrive", "job-1", "--scene", "1", *WHY)
    assert code == 0, result
    requests_on_log = [value_of(record) for record in await fixture.log("scene.requested")]
    from_rows = await _unfinished(fixture)
    elsewhere = [{**request, "job_id": "other"} for request in requests_on_log]
    await fixture.api.apply(*(SceneRequested.model_validate(request) for request in elsewhere))
    specs = "SELECT spec FROM scenes WHERE job_id = $1 AND run = 2 ORDER BY scene_index"

    async with fixture.api.context.database.connection() as connection:
        needed = await retention.unfinished_runs(connection)

    assert from_rows == requests_on_log
    assert sorted(needed) == [(job, run) for job in ("job-1", "other") for run in (1, 2)]
    assert await _unfinished(fixture) == requests_on_log + elsewhere
    assert await fixture.api.rows(specs, "job-1") == await fixture.api.rows(specs, "other")


async def _unfinished(fixture: OperatorFixture) -> list[dict[str, Any]]:
    async with fixture.api.context.database.connection() as connection:
        return [
            request.model_dump(mode="json")
            for request in await runs.unfinished_requests(connection)
        ]


async def _stored(fixture: OperatorFixture, segment: SegmentGenerated, *, clip: bool) -> None:
    """Store a segment as the generator does."""
    store = fixture.api.context.store
    key = keys.segment_key(segment.job_id, segment.run, segment.scene_index)
    await store.put(key, segment.model_dump_json().encode())
    if clip:
        assert segment.object_key is not None
        await store.put(segment.object_key, b"music")


async def _log(pipeline: Pipeline) -> list[Any]:
    return await records_of(pipeline.kafka.bootstrap, "scene.requested", prefix=pipeline.prefix)


async def _track(pipeline: Pipeline, run: int) -> str:
    """Return the hash of a run's track."""
    data = await FolderStore(pipeline.folder / "store").get(keys.track_key("j", run))
    return hashlib.sha256(data).hexdigest()


async def test_a_redrive_costs_what_the_provider_of_the_run_costs(
    fixture: OperatorFixture,
) -> None:
    """Not what the command's environment or the stack's own provider would; --provider decides."""
    await fixture.api.apply(*a_complete_run())  # by synth, on a stack that runs replicate
    for index in range(2):
        await _stored(fixture, a_segment(index, count=2), clip=True)
    command = ("redrive", "job-1", "--scene", "2")

    own, paid, unknown = await asyncio.gather(
        fixture.segue(*command),
        fixture.segue(*command, "--provider", "replicate"),
        fixture.segue(*command, "--provider", "orchestra"),
    )
    applied = await fixture.segue(*command, "--provider", "replicate", *WHY)
    requests = [value_of(record) for record in await fixture.log("scene.requested")]
    await fixture.api.rows("DELETE FROM pricing")
    unpriced = await fixture.segue("redrive", "job-1", "--scene", "1")

    assert (own[1]["provider"], own[1]["cost_usd_at_most"]) == ("synth", 0.0)
    assert paid[1]["provider"] == "replicate"
    assert paid[1]["cost_usd_at_most"] == pytest.approx(4 * 2 * 0.0014)  # 3 s and the window
    assert (unknown[0], "orchestra is not a music provider" in unknown[1]["error"]) == (2, True)
    assert applied[0] == 0, applied
    assert {request["provider"] for request in requests} == {"replicate"}
    [run] = await fixture.api.rows("SELECT provider FROM runs WHERE run = 2")
    assert run["provider"] == "replicate"
    assert (unpriced[0], "still running" in unpriced[1]["error"]) == (4, True)
