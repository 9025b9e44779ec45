"""The runbook's first fault: a poison record inside a job; the commands of the page mend it."""

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
    """Who says the scenes itself, and once half of a record."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def says(self, job_id: str, *indexes: int, run: int = 1, count: int = SCENES) -> None:
        """These scenes of a job, in this order."""
        for index in indexes:
            await self._publisher.publish(_scene(job_id, index, run=run, count=count))

    async def says_half(self, job_id: str, index: int) -> None:
        """A record that breaks off in its middle."""
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
    """Four services; all jobs lie in one partition, behind one another."""
    async with open_pipeline(SEGUE_PARTITIONS="1") as running:
        yield running


@pytest.fixture
async def upstream(pipeline: Pipeline) -> AsyncIterator[Upstream]:
    """On the line's topics."""
    settings = KafkaSettings(
        bootstrap_servers=pipeline.kafka.bootstrap, topic_prefix=pipeline.prefix
    )
    publisher = Publisher(settings, source="upstream", clock=SystemClock())
    await publisher.start()
    try:
        yield Upstream(publisher)
    finally:
        await publisher.stop()


async def test_a_poison_record_in_the_middle_of_a_job_is_mended_by_the_page(
    pipeline: Pipeline, upstream: Upstream
) -> None:
    """Its neighbours never notice; what was made before it is not made again."""
    await upstream.says("before", 0, count=1)
    await upstream.says("poisoned", 0)
    await upstream.says_half("poisoned", POISONED)
    await upstream.says("beside", 0, count=1)
    await upstream.says("poisoned", 2, 3)
    await upstream.says("behind", 0, count=1)
    await _letters_are(pipeline, 3)
    failed = await pipeline.ended("poisoned")
    neighbours = [await pipeline.ended(job) for job in NEIGHBOURS]
    place = await _place_of_the_unreadable(pipeline)

    hand = RunbookOperator("dead-letters", addresses(pipeline), JOB="poisoned", PLACE=place)
    await hand.run_step()
    await hand.run_step()
    await upstream.says("poisoned", POISONED)
    await _letters_are(pipeline, 4)
    for _ in range(5):
        await hand.run_step()
    hand.assert_complete()
    ended = await pipeline.ended("poisoned")
    segments = await records_of(
        pipeline.kafka.bootstrap, "segment.generated", prefix=pipeline.prefix
    )
    made = Counter((value_of(one)["job_id"], value_of(one)["scene_index"]) for one in segments)

    sys.stdout.write(
        f"a poison record: {len(neighbours)} of {len(NEIGHBOURS)} neighbours in its partition"
        f" done; requeued in order {_said_again(await _requests(pipeline))}, segments of the job"
        f" {sum(count for (job, _), count in made.items() if job == 'poisoned')} of {SCENES}\n"
    )
    assert failed["audio_status"]["status"] == "failed"
    assert [told["audio_status"]["status"] for told in neighbours] == ["completed"] * 3
    assert ended["audio_status"]["status"] == "completed"
    assert [scene["origin"] for scene in ended["progress"]["scenes"]] == [
        "fresh",
        *["continued"] * 3,
    ]
    assert _said_again(await _requests(pipeline)) == [POISONED, 2, 3]
    assert set(made.values()) == {1}


async def _requests(pipeline: Pipeline) -> list[Record]:
    return await records_of(pipeline.kafka.bootstrap, TOPIC, prefix=pipeline.prefix)


def _said_again(requests: list[Record]) -> list[int]:
    """The scenes that the requeue put back, in its order."""
    return [value_of(one)["scene_index"] for one in requests if one.header("dlq-requeue")]


async def _letters_are(pipeline: Pipeline, count: int) -> None:
    """Wait until there are so many."""

    async def poll() -> bool | None:
        found = await records_of(pipeline.kafka.bootstrap, f"{TOPIC}.dlq", prefix=pipeline.prefix)
        return len(found) >= count or None

    await eventually(poll, within_s=WAIT_S, what=f"{count} dead letters")


async def _place_of_the_unreadable(pipeline: Pipeline) -> str:
    """As `segue dlq list` shows it."""
    found = await records_of(pipeline.kafka.bootstrap, f"{TOPIC}.dlq", prefix=pipeline.prefix)
    [one] = [one for one in found if one.header("dlq-exception") == "UndecodableError"]
    return f"{one.topic}/{one.partition}/{one.offset}"
