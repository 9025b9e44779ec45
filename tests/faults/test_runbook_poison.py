"""The runbook repairs a job with a poison record."""

import sys
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from shared.clock import SystemClock
from shared.contract.events import SceneRequested
from shared.kafka.codec import Record, encode
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.event_builders import a_scene
from tests.support.pipeline_fixture import OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of, value_of
from tests.support.runbook import RunbookOperator, addresses

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
TOPIC = SceneRequested.kind
SCENES, POISONED = 4, 1
NEIGHBOURS = ("before", "beside", "behind")
WAIT_S = 90.0


class Upstream:
    """Publishes scenes, and truncated records."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, job_id: str, *indexes: int, run: int = 1, count: int = SCENES) -> None:
        """Publish scenes of a job, in this order."""
        for index in indexes:
            await self._publisher.publish(_scene(job_id, index, run=run, count=count))

    async def publish_truncated(self, job_id: str, index: int) -> None:
        """Publish half of a record."""
        whole = encode(_scene(job_id, index), source="upstream", now=SystemClock().now())
        await self._publisher.send(
            topic=TOPIC,
            key=whole.key,
            value=whole.value[: len(whole.value) // 2],
            headers=whole.headers,
        )


def _scene(job_id: str, index: int, *, run: int = 1, count: int = SCENES) -> SceneRequested:
    return a_scene(index, count=count, job_id=job_id, run=run, duration_s=1.1)


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[Pipeline]:
    """Four services with one partition per topic."""
    async with open_pipeline(SEGUE_PARTITIONS="1") as running:
        yield running


@pytest.fixture
async def upstream(pipeline: Pipeline) -> AsyncIterator[Upstream]:
    """An upstream producer on the pipeline's topics."""
    settings = KafkaSettings(
        bootstrap_servers=pipeline.kafka.bootstrap, topic_prefix=pipeline.prefix
    )
    publisher = Publisher(settings, source="upstream", clock=SystemClock())
    await publisher.start()
    try:
        yield Upstream(publisher)
    finally:
        await publisher.stop()


async def test_the_runbook_repairs_a_job_with_a_poison_record(
    pipeline: Pipeline, upstream: Upstream
) -> None:
    """Other jobs are not affected; earlier scenes are not generated again."""
    await upstream.publish("before", 0, count=1)
    await upstream.publish("poisoned", 0)
    await upstream.publish_truncated("poisoned", POISONED)
    await upstream.publish("beside", 0, count=1)
    await upstream.publish("poisoned", 2, 3)
    await upstream.publish("behind", 0, count=1)
    await _until_dead_letters(pipeline, 3)
    failed = await pipeline.ended("poisoned")
    neighbours = [await pipeline.ended(job) for job in NEIGHBOURS]
    place = await _position_of_the_undecodable(pipeline)

    runbook = RunbookOperator("dead-letters", addresses(pipeline), JOB="poisoned", PLACE=place)
    await runbook.run_step()
    await runbook.run_step()
    await upstream.publish("poisoned", POISONED)
    await _until_dead_letters(pipeline, 4)
    for _ in range(5):
        await runbook.run_step()
    runbook.assert_complete()
    ended = await pipeline.ended("poisoned")
    segments = await records_of(
        pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
    )
    made = Counter((value_of(r)["job_id"], value_of(r)["scene_index"]) for r in segments)

    sys.stdout.write(
        f"a poison record: {len(neighbours)} of {len(NEIGHBOURS)} neighbours in its partition"
        f" done; requeued in order {_requeued(await _requests(pipeline))}, segments of the job"
        f" {sum(count for (job, _), count in made.items() if job == 'poisoned')} of {SCENES}\n"
    )
    assert failed["audio_status"]["status"] == "failed"
    assert [end["audio_status"]["status"] for end in neighbours] == ["completed"] * 3
    assert ended["audio_status"]["status"] == "completed"
    assert [scene["origin"] for scene in ended["progress"]["scenes"]] == [
        "fresh",
        *["continued"] * 3,
    ]
    assert _requeued(await _requests(pipeline)) == [POISONED, 2, 3]
    assert set(made.values()) == {1}


async def _requests(pipeline: Pipeline) -> list[Record]:
    return await records_of(pipeline.kafka.bootstrap, TOPIC, prefix=pipeline.prefix)


def _requeued(requests: list[Record]) -> list[int]:
    """Return the requeued scenes, in order."""
    return [value_of(r)["scene_index"] for r in requests if r.header("dlq-requeue")]


async def _until_dead_letters(pipeline: Pipeline, count: int) -> None:
    """Wait for `count` dead letters."""

    async def poll() -> bool | None:
        letters = await records_of(pipeline.kafka.bootstrap, f"{TOPIC}.dlq", prefix=pipeline.prefix)
        return len(letters) >= count or None

    await eventually(poll, within_s=WAIT_S, what=f"{count} dead letters")


async def _position_of_the_undecodable(pipeline: Pipeline) -> str:
    """Return the position of the undecodable dead letter, as `segue dlq list` shows it."""
    letters = await records_of(pipeline.kafka.bootstrap, f"{TOPIC}.dlq", prefix=pipeline.prefix)
    [letter] = [r for r in letters if r.header("dlq-exception") == "UndecodableError"]
    return f"{letter.topic}/{letter.partition}/{letter.offset}"
