"""The api service on a real broker: it publishes requests and shows published events."""

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from shared.storage.keys import track_key
from tests.support.api_fixture import NOWHERE, TWO_SCENES, free_port, running_api
from tests.support.api_service import ApiServiceFixture, all_done, is_ready, reached
from tests.support.event_builders import a_scene, a_segment
from tests.support.fork_server import REPOSITORY
from tests.support.processes import Service, eventually, records_of
from tests.support.run_builders import a_complete_run, a_failure, a_track, a_video
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GENERATE = "/api/v3/audio/generate-scenes"


@pytest.fixture
async def fixture(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> ApiServiceFixture:
    """Return a fixture with a new database, new topics and a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)


async def test_a_client_requests_and_downloads_a_track(fixture: ApiServiceFixture) -> None:
    """The request is published; events of the other services update the status."""
    async with running_api(fixture.settings()) as client:
        response = await client.post(GENERATE, json={"job_id": "job-1", "scenes": TWO_SCENES})

        async def both_published() -> list[dict[str, Any]] | None:
            published = await fixture.published()
            return published if len(published) == 2 else None

        records = await eventually(both_published, within_s=30, what="both scenes are on Kafka")
        await fixture.publish(a_segment(0, count=2), a_segment(1, count=2))
        (fixture.folder / track_key("job-1", 1)).parent.mkdir(parents=True)
        (fixture.folder / track_key("job-1", 1)).write_bytes(b"the track")
        track = a_track(params=a_scene().params)
        await fixture.publish(track.model_copy(update={"object_key": track_key("job-1", 1)}))
        status = await reached(client, "job-1", "completed")
        download = await client.get(status["links"]["download"])
        ready = await client.get("/readyz")
        metrics = await client.get("/metrics")

    assert response.status_code == 202
    assert [record["scene_index"] for record in records] == [0, 1]
    assert status["progress"]["stage"] == "audio_completed"
    assert download.content == b"the track"
    assert ready.json()["ready"] is True
    assert "segue_records_total" in metrics.text


async def test_a_restarted_api_continues_at_the_stored_offsets(fixture: ApiServiceFixture) -> None:
    """Records of the meantime are read; earlier ones are not read again."""
    async with running_api(fixture.settings()) as client:
        await fixture.publish(*a_complete_run()[:3])
        await reached(client, "job-1", "processing")
    [before] = await fixture.rows("SELECT version FROM jobs")
    await fixture.publish(*a_complete_run()[3:])
    async with running_api(fixture.settings()) as client:
        await reached(client, "job-1", "completed")
    async with running_api(fixture.settings(auto_generate=True)) as client:
        status = await reached(client, "job-1", "completed")
        assert (await client.get("/readyz")).status_code == 200

    [after] = await fixture.rows("SELECT version FROM jobs")
    assert status["progress"]["percentage"] == 100
    assert after["version"] <= before["version"] + 3


async def test_requests_are_accepted_while_kafka_is_unavailable_and_published_later(
    fixture: ApiServiceFixture,
) -> None:
    """The api starts without Kafka and is not ready."""
    unavailable = fixture.broker(bootstrap_servers=NOWHERE, create_topics=True)
    async with running_api(fixture.settings(kafka=unavailable)) as client:
        answers = [
            await client.post(GENERATE, json={"job_id": f"j{i}", "scenes": TWO_SCENES})
            for i in range(3)
        ]
        ready = await client.get("/readyz")
    async with running_api(fixture.settings()):

        async def all_published() -> list[dict[str, Any]] | None:
            requests = await fixture.published()
            return requests if len(requests) == 6 else None

        requests = await eventually(all_published, within_s=30, what="six scenes are on Kafka")

    assert {answer.status_code for answer in answers} == {202}
    assert ready.status_code == 503
    assert NOWHERE in ready.json()["checks"]["kafka"]["detail"]
    assert {(request["job_id"], request["scene_index"]) for request in requests} == {
        (f"j{job}", scene) for job in range(3) for scene in range(2)
    }
    assert await fixture.rows("SELECT id FROM outbox") == []


async def test_unfinished_requests_are_published_again_to_a_log_that_lost_its_records(
    fixture: ApiServiceFixture,
) -> None:
    """A new epoch, or the same epoch with a log that is shorter than the stored offset."""
    async with running_api(fixture.settings()) as client:
        await client.post(GENERATE, json={"job_id": "j", "scenes": TWO_SCENES})

        async def sent() -> bool | None:
            return (len(await fixture.published()) == 2) or None

        await eventually(sent, within_s=30, what="the scenes are on Kafka")

        async def read() -> bool | None:
            rows = await fixture.rows("SELECT sum(next_offset) AS n FROM projection_offsets")
            return (rows[0]["n"] == 2) or None

        await eventually(read, within_s=30, what="both were read")
    fixture.prefix += "new-"  # topics of other names: a log without a record
    async with running_api(fixture.settings(kafka=fixture.broker(epoch="2"))):
        await eventually(sent, within_s=30, what="the scenes are published again")

        async def read_in_new_epoch() -> bool | None:
            rows = await fixture.rows(
                "SELECT sum(next_offset) AS n FROM projection_offsets WHERE epoch = '2'"
            )
            return (rows[0]["n"] == 2) or None

        await eventually(read_in_new_epoch, within_s=30, what="both were read from the new log")
    await fixture.rows(
        "UPDATE projection_offsets SET next_offset = 1000 WHERE epoch = '2' RETURNING 1"
    )
    async with running_api(fixture.settings(kafka=fixture.broker(epoch="2"))):

        async def published_again() -> bool | None:
            return (len(await fixture.published()) == 4) or None

        await eventually(published_again, within_s=30, what="the scenes are published once more")


async def test_a_record_of_upstream_without_headers_starts_a_run(
    fixture: ApiServiceFixture,
) -> None:
    """video.stitched is a bare JSON value; an invalid one is dead-lettered."""
    async with running_api(fixture.settings(auto_generate=True)) as client:
        producer = AIOKafkaProducer(bootstrap_servers=fixture.kafka.bootstrap)
        await producer.start()
        try:
            topic = fixture.prefix + "video.stitched"
            invalid = b'{"job_id": "bad"}'
            await producer.send_and_wait(topic, invalid, key=b"bad", headers=[("x", b"\xff\x00")])
            valid = json.dumps({"job_id": "\N{CLAPPER BOARD}", "scenes": TWO_SCENES}).encode()
            await producer.send_and_wait(topic, valid)
        finally:
            await producer.stop()
        status = await reached(client, "\N{CLAPPER BOARD}", "processing")

        async def dead_letters() -> list[Any] | None:
            records = await records_of(
                fixture.kafka.bootstrap, "video.stitched.dlq", prefix=fixture.prefix
            )
            return records or None

        [dead] = await eventually(dead_letters, within_s=30, what="the dead letter")
        unknown = await client.get("/api/v3/audio/status/bad")

    assert status["run"] == 1
    assert (dead.key, dead.value) == (b"bad", invalid)
    assert ("x", b"\xff\x00") in dead.headers
    assert "scenes: is required" in (dead.header("dlq-reason") or "")
    assert unknown.status_code == 404


async def test_the_status_is_complete_in_any_order_of_events(fixture: ApiServiceFixture) -> None:
    """Two jobs are interleaved, one of them in reverse order."""
    runs = [
        [event.model_copy(update={"job_id": name}) for event in a_complete_run()]
        for name in ("a", "b")
    ]
    mixed = [event for pair in zip(reversed(runs[0]), runs[1], strict=True) for event in pair]
    settings = fixture.settings()
    async with running_api(settings) as client:
        await eventually(lambda: is_ready(client), within_s=20, what="the api is ready")
        await fixture.publish(*mixed, a_failure().model_copy(update={"job_id": "c"}), a_video(2))
        for name in ("a", "b"):  # the video may be read before the segments are
            await eventually(partial(all_done, client, name), within_s=30, what="all is read")
        a, b = await reached(client, "a", "completed"), await reached(client, "b", "completed")
        c = await reached(client, "c", "failed")

    assert [scene["state"] for scene in a["progress"]["scenes"]] == ["done", "done"]
    assert {**a, "job_id": "", "links": "", "audio_status": ""} == {
        **b,
        "job_id": "",
        "links": "",
        "audio_status": "",
    }
    assert c["audio_status"]["error"] == "m"


async def test_the_process_stops_cleanly_and_rejects_an_invalid_setting(
    fixture: ApiServiceFixture, tmp_path: Path
) -> None:
    """Exit codes 0 and 2; the message names the setting."""
    environment = {
        **fixture.kafka.environment(),
        "DATABASE_URL": fixture.url,
        "SEGUE_TOPIC_PREFIX": fixture.prefix,
        "SEGUE_STORE_DIR": str(fixture.folder),
        "SEGUE_SEGMENT_KEYS": "a secret of enough length",
        "SEGUE_API_PORT": str(free_port()),
    }
    service = Service("api", environment, log=tmp_path / "api.log")
    await service.start()
    base = f"http://127.0.0.1:{environment['SEGUE_API_PORT']}"
    async with httpx.AsyncClient(base_url=base) as client:

        async def answers_ready() -> bool | None:
            try:
                return await is_ready(client)
            except httpx.TransportError:
                return None

        await eventually(answers_ready, within_s=30, what="the process is ready")
    started = time.monotonic()
    code = await service.stop()
    took_s = time.monotonic() - started
    invalid = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.api"),
        cwd=REPOSITORY,
        env={**environment, "SEGUE_API_PORT": "no"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(invalid.communicate(), timeout=20)

    assert code == 0
    assert took_s < 10
    assert invalid.returncode == 2
    assert b"SEGUE_API_PORT" in stderr
    assert stderr.count(b"\n") == 1
