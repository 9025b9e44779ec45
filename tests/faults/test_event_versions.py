"""Old, current and future events on one topic, and services of two releases at once."""

import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from typing_extensions import override

from shared.contract.events import EVENTS, SceneRequested
from shared.contract.topics import DLQ_SUFFIX
from tests.faults.harness.previous_release import known, previous_release, refused, released
from tests.support.api_fixture import TWO_SCENES
from tests.support.pipeline_fixture import OpenPipeline, Pipeline
from tests.support.processes import Service, records_of, value_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
KINDS = [event.kind for event in EVENTS]


class PreviousService(Service):
    """A service of the previous release."""

    @override
    def command(self) -> Sequence[str]:
        return ("tests.faults.harness.previous_release", self.name)


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """Four current services."""
    async with open_pipeline() as running:
        yield running


@asynccontextmanager
async def previous(pipeline: Pipeline, *names: str) -> AsyncIterator[dict[str, PreviousService]]:
    """Start services of the previous release beside the current ones."""
    started = {
        name: PreviousService(
            name, pipeline.services[name].environment, log=pipeline.folder / f"previous-{name}.log"
        )
        for name in names
    }
    try:
        for service in started.values():
            await service.start()
        yield started
    finally:
        for service in started.values():
            await service.kill()


def _scenes(job_id: str, **more: Any) -> Iterable[dict[str, Any]]:
    """Yield minimal `scene.requested` values of a job of two scenes."""
    for index, scene in enumerate(TWO_SCENES):
        yield {"job_id": job_id, "run": 1, "scene_index": index, "scene_count": 2, **scene, **more}


async def _publish(pipeline: Pipeline, values: Iterable[dict[str, Any]]) -> None:
    """Publish records without headers, as another producer does."""
    producer = AIOKafkaProducer(bootstrap_servers=pipeline.kafka.bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(
                pipeline.prefix + SceneRequested.kind,
                json.dumps(value).encode(),
                key=value["job_id"].encode(),
            )
    finally:
        await producer.stop()


async def _records(pipeline: Pipeline) -> list[tuple[str, dict[str, Any]]]:
    """Return every event with its kind."""
    return [
        (kind, value_of(record))
        for kind in KINDS
        for record in await records_of(pipeline.kafka.bootstrap, kind, prefix=pipeline.prefix)
    ]


async def _dead_letters(pipeline: Pipeline) -> int:
    count = 0
    for kind in KINDS:
        topic = kind + DLQ_SUFFIX
        count += len(await records_of(pipeline.kafka.bootstrap, topic, prefix=pipeline.prefix))
    return count


def _unreadable(records: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the events that the previous release rejects."""
    return [f"{kind}: {why}" for kind, value in records for why in refused(kind, value)]


async def test_old_and_future_events_are_processed_together(pipeline: Pipeline) -> None:
    """Missing fields get their defaults, unknown fields are ignored."""
    await pipeline.generate(job_id="today", scenes=TWO_SCENES)
    future = {"tempo_bpm": 90, "params": {"transition": "fade", "reverb": {"room": "hall"}}}
    await _publish(pipeline, _scenes("old"))
    await _publish(pipeline, _scenes("future", **future))
    ends = {job: await pipeline.ended(job) for job in ("today", "old", "future")}
    records = await _records(pipeline)
    letters = await _dead_letters(pipeline)
    sys.stdout.write(
        f"events of three versions: 3 of 3 jobs completed, {len(records)} records, all"
        f" readable by the first release, dead letters {letters}\n"
    )

    assert {end["audio_status"]["status"] for end in ends.values()} == {"completed"}
    assert _unreadable(records) == []
    assert letters == 0
    [seam] = ends["future"]["track"]["seams"]
    assert seam["kind"] == "fade", "known fields of a future event apply"


async def test_services_of_two_releases_share_and_take_over_the_work(pipeline: Pipeline) -> None:
    """In one group, each killed in turn; every job completes without dead letters."""
    names = [f"job-{number}" for number in range(6)]
    async with previous(pipeline, "generator", "merger", "muxer") as old:
        for name in names[:3]:
            await pipeline.generate(job_id=name, scenes=TWO_SCENES)
        for service in ("generator", "merger", "muxer"):
            await pipeline.services[service].kill()
        first = [await pipeline.ended(name) for name in names[:3]]
        for name in names[3:]:
            await pipeline.generate(job_id=name, scenes=TWO_SCENES)
        for service in ("generator", "merger", "muxer"):
            await pipeline.services[service].start()
            await old[service].kill()
        ends = [*first, *[await pipeline.ended(name, within_s=180) for name in names[3:]]]
        logs = "".join(service.log.read_text() for service in old.values())
    records = await _records(pipeline)
    letters = await _dead_letters(pipeline)
    sys.stdout.write(
        f"two releases at once: {len(ends)} of {len(names)} jobs completed, {len(records)} records,"
        f" dead letters {letters}\n"
    )

    assert {end["audio_status"]["status"] for end in ends} == {"completed"}
    assert _unreadable(records) == []
    assert letters == 0
    assert "cannot read" not in logs
    assert "segment.stored" in logs, "the older generator generated scenes"
    assert "track.merged" in logs, "the older merger merged tracks"


def test_the_emulated_release_drops_new_fields_and_rejects_what_it_cannot_read() -> None:
    """At any depth; afterwards, this process writes and reads today's events again."""
    schema = released(SceneRequested.kind)
    assert schema is not None
    [value, _] = _scenes("j", tempo_bpm=90, params={"fade_duration": 2.0, "use_cache": False})
    left = known(value, schema)

    assert "tempo_bpm" not in left
    assert left["params"] == {"fade_duration": 2.0}
    assert refused(SceneRequested.kind, {**value, "scene_index": "one"})
    with previous_release():
        event = SceneRequested.model_validate_json(json.dumps(value))
        assert event.params.use_cache is True, "unknown to the release"
        assert "use_cache" not in event.model_dump_json()
        with pytest.raises(AssertionError, match="cannot read"):
            SceneRequested.model_validate_json(json.dumps({**value, "scene_index": "one"}))
    today = SceneRequested.model_validate_json(json.dumps(value))
    assert today.params.use_cache is False
    assert "use_cache" in today.model_dump_json()
